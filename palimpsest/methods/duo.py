"""Direct Unlearning Optimization for Robust and Safe Text-to-Image Models (DUO). Park, Yun, Kim, Kim, Jang, Jeong, Jo, Lee.
NeurIPS 2024. arXiv 2407.21035.

A pair is a picture x- of the concept and x+, the same redrawn without it. With one noise eps for both, levels t+ and t- of their own, the
empty text, theta the student and phi the original, low-rank factors of self-attention minimise

    d+- = mse(eps_theta(x+-_t, t), eps) - mse(eps_phi(x+-_t, t), eps),
    L   = mean -log sigmoid(-beta (d+ - d-)) + lambda beta / 100 mse(eps_theta(eps, T), eps_phi(eps, T)),

at the learning rate base_lr 100 / beta: the smaller beta, the stronger. (beta is half of that of diffusers' Diffusion-DPO script.)
Official code: naver-ai/DUO, `train/unlearn-sd.py` and `inference.py` @e0f2ae6; SD 1.4 only.
Differs from the official code: `processes` is 1 here and 4 in its scripts; phi can answer many steps in one batch (`ahead`); fp32 and not
fp16; what a batch leaves of an epoch goes into the next (their 32 and 64 pairs leave nothing); with kto and `given_prompt` a text stays
with its picture; `naive` runs (there beta 0 divides by zero); `--cfg_train`, which no script of theirs sets, is left out, and so is the
paper's SD 3, whose layers attend jointly; for a v-prediction model errors are those of the noise. With the same draws losses and factors
are theirs in float64, but for these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from palimpsest import edits
from palimpsest.data import Concept, Images
from palimpsest.diffusion import encode, moments, noise, noised, posterior, predictions
from palimpsest.edits import Edit, Erasure
from palimpsest.optimise import descend, foreseen
from palimpsest.types import Count, Latents, Model, NotNegative, Positive, Text, Timestep, Timesteps

NEEDS = ("cross-attention",)  # of families/: without it not defined


class Sides(NamedTuple):
    """The pictures: side 0 without the concept and side 1 with it, or (naive) one side with it."""

    moments: Tensor  # "s n 2c h w"
    texts: Text  # "s n l d"


class Step(NamedTuple):
    """What was drawn for one step."""

    rows: Tensor  # "b": which pairs
    t: Tensor  # "s*b", one side below the other
    seed: int  # of the noise
    processes: int = 1  # parts of the batch with the same draws


class Shown(NamedTuple):
    """A batch of the UNet: all sides one below the other, then the pure noise where it is asked for."""

    x: Latents
    t: Tensor
    text: Text
    eps: Latents  # "b c h w"


def sources(images: Images, form: str) -> tuple[Images, ...]:
    """The clean pictures and, row for row, the pool pictures that they were redrawn from (the same seed); for naive all of the pool.

    Raises:
        ValueError: there are none, or a pool picture is missing.
    """
    clean, pool = images.only("clean"), {row.prompt.seed: row for row in images.only("pool").rows}
    lost = [row.prompt.seed for row in clean.rows if row.prompt.seed not in pool]
    if not pool:
        raise ValueError("duo: images: no picture has the role 'pool'; set pool.images in params.yaml above 0")
    if form == "naive":
        return (images.only("pool"),)
    if not clean.rows:
        raise ValueError("duo: images: no picture has the role 'clean'; set pairs.images in params.yaml above 0, or say `form: naive`")
    if lost:
        raise ValueError(f"duo: images: no pool picture has seed {lost[0]}, which a clean one was redrawn from; make pool and pairs again")
    return clean, replace(images, rows=[pool[row.prompt.seed] for row in clean.rows])


def groups(concept: Concept, unsafe: Images, adapters: str) -> dict[str, list[int]]:
    """The pairs of each adapter, by its name: all of them, or those whose pool prompt names one of the concept's words.

    Raises:
        ValueError: a word has none.
    """
    if adapters == "one":
        return {concept.name: list(range(len(unsafe)))}
    texts = [row.prompt.text for row in unsafe.rows]
    found = {
        word: [n for n, text in enumerate(texts) if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)] for word in concept.words
    }
    for word in (word for word, rows in found.items() if not rows):
        raise ValueError(f"duo: adapters: no pair's pool prompt names {word!r}; raise pairs.images, take it from `words`, or say `one`")
    return found


def planned(
    steps: int, pairs: int, batch: int, draws: Generator, *, sides: int, levels: tuple[int, int], shared: Literal["no", "pair", "batch"],
    processes: int = 1,
) -> list[Step]:  # fmt: skip
    """Pairs epoch by epoch, levels uniform in [first, last). A longer plan begins with the shorter one."""
    own = batch // processes
    shape = {"no": (sides, own), "pair": (1, own), "batch": (1, 1)}[shared]
    plan, left = [], torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(left) < batch:
            left = torch.cat([left, torch.randperm(pairs, generator=draws)])
        t = torch.randint(*levels, shape, generator=draws).expand(sides, own).repeat(1, processes).flatten()
        plan.append(Step(left[:batch], t, int(torch.randint(2**63 - 1, (1,), generator=draws)), processes))
        left = left[batch:]
    return plan


def shown(model: Model, pictures: Sides, step: Step, null: Text, prior_t: int | None) -> Shown:
    """x_t of both pictures of each pair under one noise and, with `prior_t`, that noise alone at that level under the empty text."""
    draws, (sides, b) = Generator().manual_seed(step.seed), (len(pictures.moments), len(step.rows))
    rows, t, own = step.rows.to(model.device), step.t.to(model.device), b // step.processes
    eps = noise(model, draws, own).repeat(step.processes, 1, 1, 1)
    z = noise(model, draws, sides * own).unflatten(0, (sides, own)).repeat(1, step.processes, 1, 1, 1)
    x = posterior(model, pictures.moments[:, rows].flatten(0, 1), z.flatten(0, 1))
    x, text = noised(model, x, t, eps.repeat(sides, 1, 1, 1)), pictures.texts[:, rows].flatten(0, 1)
    if prior_t is None:
        return Shown(x, t, text, eps)
    return Shown(torch.cat([x, eps]), torch.cat([t, t.new_full((b,), prior_t)]), torch.cat([text, null.expand(b, -1, -1)]), eps)


def errors(answer: Latents, eps: Latents, sides: int) -> tuple[Tensor, Latents]:
    """Mean squared error of every picture "s b", and the answer to the pure noise ("b c h w", or none of them)."""
    pictures, prior = answer.split([sides * len(eps), len(answer) - sides * len(eps)])
    return (pictures - eps.repeat(sides, 1, 1, 1)).pow(2).mean((1, 2, 3)).view(sides, len(eps)), prior


def answered(edit: Edit, pictures: Sides, steps: Sequence[Step], null: Text, prior_t: int | None) -> list[tuple[Shown, Tensor, Latents]]:
    """Of each of these steps: what it is shown, phi's errors at it and phi's answer to the noise; all in one batch."""
    shows = [shown(edit.model, pictures, step, null, prior_t) for step in steps]
    with edit.off():
        together = Shown(*map(torch.cat, zip(*shows, strict=True)))
        answers = predictions(edit.model, together.x, together.t, [together.text])[0].chunk(len(shows))
    return [(show, *errors(answer, show.eps, len(pictures.moments))) for show, answer in zip(shows, answers, strict=True)]


def preference(safe: Tensor, unsafe: Tensor, beta: float, form: str = "dpo", no_grad: str = "none") -> Tensor:
    """L_DPO of a process's d+ and d- ("b" each). kto: d+ is its mean; no_grad: through d- (`ascent`) or d+ (`descent`) nothing flows."""
    safe = safe.mean() if form == "kto" else safe
    safe = safe.detach() if no_grad == "descent" else safe
    unsafe = unsafe.detach() if no_grad == "ascent" else unsafe
    return -logsigmoid(-beta * (safe - unsafe)).mean()


def composed(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Factors whose product is the sum of the parts' products: A "r in" below one another, B "out r" side by side."""
    return {name: torch.cat([part[name] for part in parts], dim=0 if ".lora_A." in name else 1) for name in parts[0]}


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int,
    form: Literal["dpo", "kto", "naive"] = "dpo", adapters: Literal["one", "word"] = "one", beta: Positive = 500.0,
    base_lambda: NotNegative = 1e6, base_lr: Positive = 3e-4, dynamic_lambda: bool = False, steps: int = 1000, batch: Count = 4,
    rank: Count = 32, cross_attention: bool = False, t_min: Timestep = 0, t_max: Timesteps = 750, share_t: bool = False,
    prior_t: Timestep = 999, no_grad: Literal["none", "ascent", "descent"] = "none", given_prompt: bool = False,
    optimiser: Literal["adamw", "adam"] = "adamw", weight_decay: NotNegative = 1e-2, clip: Positive = 1.0, processes: Count = 1,
    ahead: Count = 1, checkpoint: int = 250,
) -> Erasure:  # fmt: skip
    """Low-rank factors of self-attention that prefer the pictures without the concept. The defaults are the official ones for nudity.

    Args:
        form: kto has one level for the whole batch, its mean d+, and clean pictures that are not those of the pair; naive is gradient
            ascent on the pool's pictures of the concept alone, at base_lr: beta and lambda are 0 there.
        adapters: `word` trains one adapter for each of the concept's words and stores their sum as one, of rank `rank` times words.
        dynamic_lambda: lambda times 100 in steps where L_DPO is below 0.1.
        t_min, t_max: levels are drawn from [t_min, t_max); the official --t_min 1 is 0 here. Pairs of strength s differ below 1000 s.
        share_t: t+ = t-, as in Diffusion-DPO.
        prior_t: T. 50 steps of a sampler with leading spacing begin at 981 and never see 999.
        given_prompt: pictures under their own prompts and not under the empty text.
        optimiser: the paper says Adam; with `weight_decay: 0` it is that, and else its decay goes into the gradient.
        processes: the batch is that of so many processes, which the official seed lets draw alike: one noise and levels for each pair of
            one are those of all. kto's mean and dynamic_lambda's test are each process's own.
        ahead: steps that phi answers in one batch. 1 has the student's shape, and so L_prior is 0 at first; with more, lambda multiplies
            the rounding by which batches of other shapes differ.
        checkpoint: steps between states that entries with other `steps` go on from: each of such a sweep trains only what is new.
    """
    sweep = {name: value for name, value in locals().items() if name not in ("model", "concept", "images", "steps", "checkpoint")}
    if beta <= 0 or not 0 <= t_min < t_max <= 1000:
        raise ValueError(f"duo: beta {beta}, t_min {t_min}, t_max {t_max}: say 0 < beta (or `form: naive`) and 0 <= t_min < t_max <= 1000")
    if processes < 1 or batch % processes:
        raise ValueError(f"duo: processes {processes}, batch {batch}: a batch is parted evenly; say a divisor of the batch")
    naive = form == "naive"
    sides = sources(images, form)
    parts = groups(concept, sides[-1], adapters)
    strength, lr = (0.0, base_lr) if naive else (base_lambda * beta / 100, base_lr * 100 / beta)
    null = encode(model, [""])
    texts = [encode(model, [row.prompt.text for row in side.rows]) if given_prompt else null.expand(len(side), -1, -1) for side in sides]
    everything = Sides(torch.stack([moments(model, side.pixels()) for side in sides]), torch.stack(texts))
    where = "unet.*attn?.to_*.weight" if cross_attention else "unet.*attn1.to_*.weight"
    shared: Literal["no", "pair", "batch"] = "batch" if form == "kto" else "pair" if share_t else "no"

    def adapter(name: str, rows: list[int]) -> Erasure:
        """The factors for these pairs alone."""
        draws, pictures = Generator().manual_seed(seed), Sides(*(part[:, rows] for part in everything))
        with edits.lora(model, where, rank=rank, generator=draws, start="normal") as edit:
            if form == "kto":
                apart = torch.randperm(len(rows), generator=draws)
                pictures = Sides(*(torch.stack([part[0, apart], part[1]]) for part in pictures))
            whole = -(-steps // ahead) * ahead  # in whole blocks a step's bits do not depend on how many come after it
            plan = planned(whole, len(rows), batch, draws, sides=len(sides), levels=(t_min, t_max), shared=shared,
                           processes=processes)  # fmt: skip
            at = foreseen(plan, ahead, lambda steps: answered(edit, pictures, steps, null, prior_t if strength else None))

            def ascent(step: int) -> Tensor:
                show = shown(model, pictures, plan[step], null, None)
                return -errors(predictions(model, show.x, show.t, [show.text])[0], show.eps, 1)[0].mean()

            noted: dict[str, Tensor] = {}

            def loss(step: int) -> Tensor:
                show, known, kept = at(step)
                wrong, prior = errors(predictions(model, show.x, show.t, [show.text])[0], show.eps, 2)
                safe, unsafe = wrong - known
                each = [preference(*d, beta, form, no_grad) for d in zip(safe.chunk(processes), unsafe.chunk(processes), strict=True)]
                value = torch.stack(each).mean()
                noted.update({"l_dpo": value, "d+": safe.mean(), "d-": unsafe.mean(), "accuracy": (safe < unsafe).float().mean()})
                if not strength:
                    return value
                noted["l_prior"] = (prior - kept).pow(2).mean()
                more = sum(100 if dynamic_lambda and one < 0.1 else 1 for one in each) / processes
                return value + more * strength * noted["l_prior"]

            log = descend(
                ascent if naive else loss, edit.parameters, steps=steps, lr=lr, optimiser=optimiser, clip=clip, title="duo", noted=noted,
                every=checkpoint, sweep={**sweep, "adapter": name}, weight_decay=weight_decay,
            )  # fmt: skip
            return edit.erasure([{"adapter": name, **row} for row in log])

    made = [adapter(name, rows) for name, rows in parts.items()]
    return Erasure("lora", composed([one.tensors for one in made]), log=[row for one in made for row in one.log])
