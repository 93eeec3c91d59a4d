"""Dark Miner: Defend against unsafe generation for text-to-image diffusion models (DM2). Meng, Peng, Jin et al. arXiv 2409.17682.

Loops of three: mine an embedding c that draws the concept from the model as it stands (Equation 5), verify that it does (Equation 6),
circumvent it with low-rank factors (Equations 7 and 8), until mining finds nothing more. c is a context of cross-attention itself, L
vectors wide, and never passes the text encoder. There is no official code; what the paper leaves open is a setting, named below with its
reason.

Differs from the paper: x of Equation 7 comes from a bank of `bank` pictures that each embedding has, instead of being drawn anew at every
step; `bank: null` is the paper's. Where a family has a pooled text (families/), the last of the L vectors stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest import clip, edits
from palimpsest.data import Concept, Images, said, to_bytes
from palimpsest.diffusion import decode, denoise, encode, guided, moments, noise, noised, posterior, predictions
from palimpsest.edits import Edit, Erasure
from palimpsest.optimise import descend, drawn, foreseen
from palimpsest.resume import lap
from palimpsest.types import Count, Latents, Model, NotNegative, Positive, Share, Text, Weights

Reduce = Callable[[Tensor], Tensor]
PICTURES = {"pool": "images_per_loop"}  # the least of each role that it learns from
KEPT = ("anchor", "zero", "minus")  # the preservation terms of Equation 8: under c0, 0c and -c
AT_ONCE = 64  # pictures that are drawn together
OPTIONS = {"sgd": ("weight_decay", "momentum"), "adam": (), "adamw": ("weight_decay",)}  # that an optimiser takes


class Mined(NamedTuple):
    """An embedding of the pool P_E, "1 L d", and its pictures that are noised while it is circumvented: latents, none without a bank."""

    c: Text
    bank: Latents


def squared(loss_reduction: str) -> Reduce:
    """Squared error over a picture's latent: its sum, as the equations' squared norm says, or its mean; averaged over the batch."""
    axes = (1, 2, 3)
    return (lambda e: e.pow(2).sum(axes).mean()) if loss_reduction == "sum" else (lambda e: e.pow(2).mean(axes).mean())


def mine(model: Model, c: Text, latents: Tensor, draws: torch.Generator, reduce: Reduce, length: int, **descent: Any) -> tuple[Text, list]:
    """Equation 5: c that lets the current model denoise pictures of the concept, given as moments "k 2c h w"."""
    c = c.detach().clone().requires_grad_()

    def loss(step: int) -> Tensor:
        x, eps = posterior(model, latents, noise(model, draws, len(latents))), noise(model, draws, len(latents))
        t = torch.randint(1000, (len(latents),), generator=draws).to(model.device)
        (guess,) = predictions(model, noised(model, x, t, eps), t, [c], length)
        return reduce(eps - guess)

    curve = descend(loss, [c], generator=draws, title="mine", **descent)
    return c.detach(), curve


def circumvent(
    edit: Edit, pick: Callable[[int], tuple[Text, Latents]], c0: Text, draws: torch.Generator, reduce: Reduce, batch: int, alpha_c: float,
    alpha_p: float, keep: Sequence[str], *, steps: int, ahead: int = 1, **descent: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Equations 7 and 8: under c the anchor's prediction; under the anchor, 0c and -c what the original says.

    Args:
        pick: from a step to its embedding and `batch` of pictures.
    """
    model, noted = edit.model, dict[str, Tensor]()

    def drawn_for(step: int) -> tuple[Text, Tensor, Latents]:
        (c, x), t = pick(step), torch.randint(1000, (batch,), generator=draws).to(model.device)
        return c.expand(batch, -1, -1), t, noised(model, x, t, noise(model, draws, batch))

    plan = [drawn_for(step) for step in range(steps)]

    def kept(c: Text) -> list[Text]:
        return [text for name, text in zip(KEPT, (c0, 0 * c, -c), strict=True) if name in keep]

    def answer(some: Sequence[tuple[Text, Tensor, Latents]]) -> list[tuple[Latents, ...]]:
        """What the original says at these steps: under the anchor, and under the texts that are kept."""
        c, t, x_t = map(torch.cat, zip(*some, strict=True))
        with edit.off():
            goal, *others = predictions(model, x_t, t, [c0, *[text for text in kept(c) if text is not c0]])
        parts = [goal, goal, *others] if "anchor" in keep else [goal, *others]
        return list(zip(*(part.split(batch) for part in parts), strict=True))

    original = foreseen(plan, ahead, answer)

    def loss(step: int) -> Tensor:
        (c, t, x_t), (goal, *wanted) = plan[step], original(step)
        erased, *now = predictions(model, x_t, t, [c, *kept(c)])
        l_p = sum((reduce(a - b) for a, b in zip(now, wanted, strict=True)), start=torch.zeros((), device=model.device))
        noted.update(l_c=reduce(erased - goal), l_p=l_p)
        return alpha_c * noted["l_c"] + alpha_p * l_p

    return descend(loss, edit.parameters, steps=steps, title="circumvent", noted=noted, **descent)


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int,
    max_loops: int = 60, images_per_loop: Count = 3, length: Count = 32, context: Literal["direct", "padded77"] = "direct",
    mining: bool = True, mine_steps: int = 1000, mine_lr: Positive = 0.1, mine_schedule: dict[int, NotNegative] | None = None,
    mine_clip: Positive = 10.0, initialisation: Literal["normal", "zeros", "text"] = "normal",
    clip_model: Weights = "openai/clip-vit-large-patch14", signal: Literal["delta", "photo", "text", "reference", "pool"] = "delta",
    tau: float = 0.2, patience: Count = 1, verify_images: Count = 1, verify_shared_seed: bool = True,
    verify_model: Literal["student", "original"] = "student", bank: int | None = 128,
    x_source: Literal["original", "student", "pool"] = "original", x_space: Literal["latent", "image"] = "latent", replay: Share = 0.7,
    replay_granularity: Literal["step", "loop"] = "step", steps: int = 1000, batch: Count = 1, lr: Positive = 0.01,
    schedule: dict[int, NotNegative] | None = None, clip_norm: Positive = 100.0, alpha_c: NotNegative = 1.0, alpha_p: NotNegative = 0.5,
    keep: list[Literal["anchor", "zero", "minus"]] | None = None, rank: Count = 8, location: Literal["value", "key", "query"] = "value",
    anchor: str = "a photo", reference: str | None = None, loss_reduction: Literal["sum", "mean"] = "sum",
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd", weight_decay: NotNegative = 0.0, momentum: Share = 0.0, sampler_steps: Count = 50,
    guidance: float = 7.5, ahead: Count = 1,
) -> Erasure:  # fmt: skip
    """Low-rank factors on the attention's value projections that leave no embedding to mine.

    Args:
        images_per_loop: k pictures of the pool that a loop mines from.
        context: c as it is, or padded to the text's length with masked vectors, which predicts the same.
        mining: False is the control: c is the encoded text of a training prompt instead of a mined embedding.
        mine_schedule, schedule: factors on the learning rates; None is the paper's {500: 0.1} and {800: 0.1}.
        initialisation: of c; the paper does not say. N(0, 1) is the spread of CLIP's final states; `text` is "a <concept> photo".
        clip_model: image encoder of the verifier; the paper does not name it.
        signal: what is compared with tau (`clip.signals`). All five are in the log.
        tau: a loop whose s(c) is not above it is the last, or the last of `patience` such loops (1 in the paper) one after the other.
        verify_images: pictures that s(c) is averaged over; 1 is the paper's.
        verify_shared_seed: both pictures from the same noise, which takes the layout out of the comparison; the paper does not say.
        verify_model: which model draws them; "whether the model can generate" suggests the student.
        bank: pictures that are drawn for an embedding, of which each step takes some; None draws `batch` new ones for every step.
        x_source: who draws x of Equation 7 under c: the original, as the equation has it, or the student; or pictures of the pool.
        x_space: whether x is the latent that was drawn, or goes through decoder and encoder, as a picture must.
        replay: probability r that a step (or a whole loop, by `replay_granularity`) takes this loop's c and not an earlier one. A choice a
            loop would leave 30 % of the embeddings never circumvented.
        keep: preservation terms of Equation 8, of anchor, zero and minus; None is all three.
        reference: what the verifier's picture x_r shows; None is the anchor, which is "a photo" in the paper, as x_r is.
        loss_reduction: `sum` makes the paper's clip norms and learning rates meaningful.
        ahead: steps that the original answers in one batch; no matter of results but of rounding.
        weight_decay, momentum: of sgd, the former of adamw too, in mining as well; the paper names SGD only.

    Raises:
        ValueError: the pool has fewer pictures than a loop mines from, or a text fewer vectors than c, which is to start from it.
    """
    pool = images.only("pool")
    if len(pool) < images_per_loop:
        raise ValueError(f"dm2: images_per_loop: {images_per_loop} pictures are mined from and the pool has {len(pool)}; raise pool.images")
    reduce = squared(loss_reduction)
    draws = torch.Generator().manual_seed(seed)
    texts = ["", said("dm2: anchor", anchor, anchor=concept.anchor), said("dm2: reference", reference or anchor, anchor=concept.anchor)]
    null, c0, shown = (encode(model, [text]) for text in texts)
    if not mining and not concept.texts.get("train"):
        raise ValueError(f"dm2: mining: {concept.name} has no training texts to take instead of what is mined; run gen_prompts")
    if initialisation == "text" and length > null.shape[1]:
        raise ValueError(f"dm2: length {length} is more than a text of {null.shape[1]} can start; lower it or take another initialisation")
    named = f"a {concept.adjective} photo"
    pictures = pool.pixels()
    latents, eye = moments(model, pictures), clip.load(clip_model)
    seen, read = clip.images(eye, pictures), clip.texts(eye, ["a photo", named])
    long = model.tokenizer.model_max_length if context == "padded77" else 0
    options = {"weight_decay": weight_decay, "momentum": momentum}
    descent = {"optimiser": optimiser, **{name: options[name] for name in OPTIONS[optimiser]}}
    found, log, shots = list[Mined](), list[dict](), dict[str, Tensor]()

    def start(rows: Tensor) -> tuple[Text, list]:
        """This loop's c and how it was mined."""
        if not mining:
            train = concept.texts["train"]
            return encode(model, [train[int(torch.randint(len(train), (1,), generator=draws))]]), []
        first = torch.randn((1, length, null.shape[2]), generator=draws).to(model.device) * (initialisation == "normal")
        first = encode(model, [named])[:, :length] if initialisation == "text" else first
        how = {"steps": mine_steps, "lr": mine_lr, "clip": mine_clip, "schedule": {500: 0.1} if mine_schedule is None else mine_schedule}
        return mine(model, first, latents[rows], draws, reduce, long, **how, **descent)

    def sampled(text: Text, z: Latents) -> Latents:
        return denoise(model, z, guided(text, null, guidance), sampler_steps)[0]

    def verify(edit: Edit, c: Text, rows: Tensor, name: str) -> dict[str, float]:
        """Equation 6, and pictures of it."""

        def pair() -> Tensor:
            x = noise(model, draws, verify_images)
            other = x if verify_shared_seed else noise(model, draws, verify_images)
            with edit.off() if verify_model == "original" else torch.no_grad():
                return torch.stack([decode(model, sampled(text, z)) for text, z in ((c, x), (shown, other))])

        made = drawn(pair, draws)
        shots[name] = to_bytes(made[0])
        return clip.signals(clip.images(eye, made[0]), clip.images(eye, made[1]), seen[rows], read)

    def pictured(edit: Edit, c: Text, count: int) -> Latents:
        """Pictures under an embedding, or under one each."""

        def make() -> Latents:
            z, rows = noise(model, draws, count), c.expand(count, -1, -1)
            with edit.off() if x_source == "original" else torch.no_grad():
                x = torch.cat([sampled(*part) for part in zip(rows.split(AT_ONCE), z.split(AT_ONCE), strict=True)])
                return x if x_space == "latent" else posterior(model, moments(model, decode(model, x)), noise(model, draws, count))

        return drawn(make, draws)

    def banked(edit: Edit, c: Text) -> Latents:
        """x of Equation 7, for every step that is to come."""
        if x_source == "pool":
            return posterior(model, latents, noise(model, draws, len(latents)))
        return pictured(edit, c, bank) if bank else c[:0]

    def one() -> Mined:
        """This loop's embedding or, with probability 1 - r, an earlier one."""
        fresh = len(found) == 1 or torch.rand(1, generator=draws).item() < replay
        return found[-1] if fresh else found[int(torch.randint(len(found) - 1, (1,), generator=draws))]

    def picks(edit: Edit) -> Callable[[int], tuple[Text, Latents]]:
        """What each step of a loop circumvents."""
        choose = partial(lambda always: always, one()) if replay_granularity == "loop" else one
        if not len(found[-1].bank):
            taken = [choose().c for _ in range(steps)]
            x = pictured(edit, torch.cat(taken).repeat_interleave(batch, 0), steps * batch).split(batch)
            return lambda step: (taken[step], x[step])

        def pick(_: int) -> tuple[Text, Latents]:
            c, pictures = choose()
            return c, pictures[torch.randint(len(pictures), (batch,), generator=draws)]

        return pick

    where, failures = f"unet.*.to_{location[0]}.weight", 0
    with edits.lora(model, where, rank=rank, generator=draws) as edit:
        for loop in range(max_loops):
            with lap(f"loop-{loop:02d}"):
                rows = torch.randperm(len(pictures), generator=draws)[:images_per_loop]
                c, curve = start(rows)
                s = verify(edit, c, rows, f"loop-{loop:02d}-before")
                log.append({"loop": loop, "s": s[signal], "signals": s, "pictures": rows.tolist(), "mine": curve})
                failures = failures + 1 if s[signal] <= tau else 0
                if failures >= patience:
                    break
                if failures:
                    continue
                found.append(Mined(c, banked(edit, c)))
                curve = circumvent(
                    edit, picks(edit), c0, draws, reduce, batch, alpha_c, alpha_p, KEPT if keep is None else keep, steps=steps,
                    ahead=ahead, lr=lr, clip=clip_norm, schedule={800: 0.1} if schedule is None else schedule, **descent,
                )  # fmt: skip
                after = verify(edit, c, rows, f"loop-{loop:02d}-after")
                log[-1] |= {"circumvent": curve, "s_after": after[signal], "signals_after": after}
        embeddings = {f"embedding-{n:02d}": one.c[0].cpu() for n, one in enumerate(found)}
        return edit.erasure(log, {**embeddings, **shots})
