"""Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts (P4D). Chin et al. ICML 2024.

arXiv 2309.06135. Tokens with which the erased model predicts the noise that the unedited one predicts with the prompt,

    min_p || eps_theta(x_t, t, TE(prompt)) - eps_theta'(x_t, t, TE(q)) ||^2,    q = the words nearest to p by cosine (Equation 4),

with the gradient taken at q and applied to p (Wen et al. 2023). Three forms: "optml" of OPTML-Group/Diffusion-MU-Attack (5a3e5d3,
hard_prompt_.py and P4D_.py), which other papers call P4D: k tokens beside the prompt, timesteps one after the other; "n" and "k" of the
authors' own joycenerd/P4D (2cf3cda, prompt_optimization): `length` tokens in place of the prompt, or one before every three of it, at
random timesteps, and of the texts on the way the one whose picture is most like the target picture.
Differs from the official code: prompts are rows of one batch; each side has its own model's encoder; the job's seed is added to a
prompt's, so that in optml prompts start from tokens of their own (there all from the same); pictures come from the base's sampler and
guidance (there from the prompt's). Forms n and k: seeds of further pictures count up from the prompt's (there one generator goes on); in k
prompts beyond the context are dropped instead of encoded in several pieces.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from palimpsest import clip, pieces, safety, search, targets
from palimpsest.data import Concept, Images, Prompt, Prompts
from palimpsest.diffusion import encode, posterior, predict, predictions
from palimpsest.draws import Draws, Seeded, Stream
from palimpsest.types import Count, Latents, Model, NotNegative, Positive, Steered, Text, Weights

NEEDS = ("one encoder",)  # of families/: without it not defined

BUDGET = (
    "white box, the unedited model too; form {form} (optml: {k} tokens in {timesteps} x {iterations} steps, a picture of the prompt and "
    "one behind each of the {timesteps}; n, k: {steps} steps, {pictures} pictures of the text whose picture is most like the target's)"
)
Aims = dict[int, targets.Target]  # by unit


def nearest(rows: Tensor, directions: Tensor) -> Tensor:
    """Which of the directions "v d", of unit length, is nearest to each row of "r d" by cosine, "r"."""
    return (normalize(rows.detach(), dim=-1) @ directions.T).argmax(1)


def alike(model: Model, concept: Concept, like: clip.Clip, aims: Aims, draw: search.Draw, batch: int) -> Callable[..., dict[int, float]]:
    """From prompts to how like their targets the pictures are, by unit: cosine of CLIP's features. What may not be asked is left out."""

    def compare(rows: Sequence[Prompt]) -> dict[int, float]:
        rows = safety.kept(concept, Prompts(rows)).rows
        if not rows:
            return {}
        wanted = clip.images(like, torch.stack([aims[row.unit].pixels for row in rows]))
        found = clip.images(like, draw(model, Prompts(rows), batch=batch))
        return {row.unit: value for row, value in zip(rows, torch.cosine_similarity(wanted, found).tolist(), strict=True)}

    return compare


def steering(model: Model, strength: float) -> search.Answer:
    """What the erasing guidance makes of the found tokens, its state handed on from step to step: the official --filter.

    Safe latent diffusion stands there without the empty text, strength (eps(q) - away), which is its own combination with eps("") = 0;
    its warm-up counts steps of the search. Another guidance is the mix that it is.
    """
    null, kept = encode(model, [""]), dict[str, Any](step=0, state=None)

    def answer(x_t: Latents, t: Tensor, text: Text) -> Latents:
        way = model.guide(text, null, strength)
        if not isinstance(way, Steered):
            return predict(model, x_t, t, way)
        said = iter(predictions(model, x_t, t, [one for one in way.texts if one is not null]))
        parts = tuple(torch.zeros_like(x_t) if one is null else next(said) for one in way.texts)
        made, state = way.combine(parts, kept["step"], kept["state"])
        kept.update(step=kept["step"] + 1, state=state.detach())
        return made

    return answer


def at_random(
    model: Model,
    units: Sequence[search.Unit],
    of: search.Variable,
    aims: Aims,
    *,
    stream: Callable[[Prompt], Draws],
    compare: Callable[[Sequence[Prompt]], dict[int, float]],
    steps: int,
    every: int,
    lr: float,
    weight_decay: float,
    by: str,
    pictures: int,
) -> Prompts:
    """AdamW at random timesteps; of the texts on the way the one whose picture is most like the target, to be drawn `pictures` times."""
    if not units:
        return Prompts([])
    streams = [stream(unit.row) for unit in units]
    variables = [of.begin(unit, draws).requires_grad_() for unit, draws in zip(units, streams, strict=True)]
    x0 = posterior(model, torch.stack([aims[unit.row.unit].moments for unit in units]).to(model.device), search.noises(model, streams))
    units = [unit._replace(x0=x) for unit, x in zip(units, x0, strict=True)]
    descent = torch.optim.AdamW(variables, lr=lr, weight_decay=weight_decay)
    best: dict[int, tuple[float, Prompt]] = {}
    log: list[search.Line] = []
    for step in range(steps):
        found = [of.read(one) for one in variables] if step % every == 0 else []
        t = torch.cat([draws.integers(1000, 1) for draws in streams]).to(model.device)
        error = of.move(units, variables, streams, t)
        descent.step()
        if not found:
            continue
        stage = step // every + 1
        made = [search.asked(model, unit, ids, stage, by, drop_end=False) for unit, ids in zip(units, found, strict=True)]
        value = compare([row._replace(seed=row.seed + stage - 1) for row, _ in made])
        for row, _ in made:
            if value.get(row.unit, -2.0) > best.get(row.unit, (-2.0, row))[0]:
                best[row.unit] = value[row.unit], row
        log += [{**line, "similarity": value.get(int(line["unit"]), -2.0)} for line in search.lines(made, t, error)]
    none = [unit.row for unit in units if unit.row.unit not in best]  # no text of theirs may be drawn
    return search.in_order([*none, *(row._replace(seed=row.seed + n) for _, row in best.values() for n in range(pictures))], log)


def attack(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    original: Callable[[], Model],
    plain: Prompts,
    seed: int,
    draw: Callable[..., Tensor],
    judge: Callable[[Tensor, Sequence[Prompt]], tuple[Tensor, Tensor]],
    draws: Stream = Seeded,
    form: Literal["optml", "n", "k"] = "optml",
    k: Count = 5,
    insertion: Literal["prefix", "suffix", "middle", "spread", "every-3"] = "prefix",
    mode: Literal["faithful", "fixed"] = "faithful",
    timesteps: Count = 50,
    iterations: Count = 40,
    lr: Positive = 0.01,
    weight_decay: NotNegative = 0.1,
    longest: int = 60,
    stop_early: bool = True,
    length: Count = 16,
    steps: int = 3000,
    every: Count = 50,
    clip_model: Weights = "",
    pictures: Count = 1,
    span: Literal["signed", "unit"] = "signed",
    padding: Literal["model", "zero"] = "model",
    filter: bool = False,
    guidance: float = 7.5,
    prompts: Count | None = None,
    only_shown: bool = False,
    at_once: Count = 8,
) -> Prompts:
    """Search tokens for each plain prompt. Settings as in unlearndiff.py, and:

    Args:
        length, steps, every: of the forms n and k: tokens of n, steps, and steps between pictures. Their official lr is 0.1.
        clip_model: whose features compare pictures, in the forms n and k.
        pictures: the target is that of so many which the judge likes most; n and k draw as many of what they find (official 1 in optml, 3
            in n and k).
        span: of the target's pixels in the VAE; "unit", [0, 1], is a quirk of the official n and k.
        padding: another: while they search, id 0 stands behind the tokens, and in k no end token.
        filter, guidance: whether in n and k the erased model answers in the loss with its own guidance of this strength, as where that
            is safe latent diffusion or a negative prompt (official --filter; without it these act on the pictures alone).

    Raises:
        ValueError: a form has no use for a setting, or nothing can be searched.
    """
    if filter and form == "optml":
        raise ValueError("filter: form optml has no such loss; say form n or k, or leave it out")
    plain, first = plain.units(None if only_shown else prompts), cache(original)
    end, pad = (form == "n", 0) if padding == "zero" else (True, None)

    def frame(ids: list[int]) -> search.Frame | None:
        if form == "n":
            return search.framed(model, [], range(length), end=end, pad=pad)
        free = search.places(len(ids), k, insertion) if form == "optml" else search.places(len(ids), len(ids) // 3 + 1, "every-3")
        return search.framed(model, ids, free, end=end, pad=pad)

    room = sys.maxsize if form == "n" else model.tokenizer.model_max_length  # n has tokens in place of the prompt
    limit = longest if (form, mode) == ("optml", "faithful") else room
    frames, dropped = search.fitting(model, plain, frame, limit)
    if form != "optml" and not clip_model:
        raise ValueError(f"clip_model: form {form} compares pictures by CLIP; name a folder or a repository")
    aims = targets.drawn(first, plain, draw, judge, batch=at_once, pictures=pictures, span=span)
    plain = targets.shown(plain, aims, prompts) if only_shown else plain
    vocabulary, table = search.choosable(model, concept)
    directions = normalize(table, dim=-1)
    texts = {row.unit: encode(first(), [row.text])[0] for row in plain.rows if row.unit in frames}

    @torch.no_grad()
    def goal(x_t: Latents, t: Tensor, units: Sequence[search.Unit]) -> Latents:
        return predict(first(), x_t, t, [(torch.stack([texts[unit.row.unit] for unit in units]), 1.0)])

    def begin(unit: search.Unit, stream: Draws) -> Tensor:
        return table[stream.integers(len(table), len(unit.frame.free)).to(model.device)]

    def variable(answer: search.Answer | None) -> search.Variable:
        def move(units: Sequence[search.Unit], rows: Sequence[Tensor], streams: Sequence[Draws], t: int | Tensor) -> Tensor:
            shown, eps = table[nearest(torch.cat(list(rows)), directions)], search.noises(model, streams)
            error, gradient = search.gradients(model, units, shown, t, eps, goal, answer)
            for row, part in zip(rows, gradient.split([len(row) for row in rows]), strict=True):
                row.grad = part
            return error

        return search.Variable(begin, move, lambda _: None, lambda row: vocabulary[nearest(row, directions)])

    if form == "optml":
        look = search.looking(model, concept, draw, judge, at_once)
        find = partial(search.sequential, budget=search.Budget(mode, timesteps, iterations, lr, weight_decay, stop_early), look=look)
    else:
        compare = alike(model, concept, clip.load(clip_model), aims, draw, at_once)
        by = "text" if mode == "faithful" else "ids"
        spent: dict[str, Any] = {"steps": steps, "every": every, "lr": lr, "weight_decay": weight_decay}
        find = partial(at_random, aims=aims, compare=compare, by=by, pictures=pictures, **spent)

    def ask(some: Prompts) -> Prompts:
        known = [row for row in some.rows if row.unit in frames]
        units = [search.Unit(row, frames[row.unit], targets.latent(model, aims[row.unit])) for row in known]
        of = variable(steering(model, guidance) if filter else None)
        return search.together(some, find(model, units, of, stream=search.seeded(draws, seed)), dropped)

    return pieces.by_prompt(plain, at_once, ask)
