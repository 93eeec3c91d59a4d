"""SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency in Both Image Classification and Generation.
Fan, Liu, Zhang, Wong, Wei, Liu. ICLR 2024. arXiv 2310.12508.

Two stages. First the mask: weights whose gradient of the guided denoising loss over the pictures to forget is among the largest,

    m = 1(|g| >= gamma),  g = sum over batches of grad MSE(eps, (1 + w) eps_theta(x_t, c_f) - w eps_theta(x_t, "")),

gradients summed with their signs and through both predictions. Then, under the mask, c_f is remapped and the retained pictures are kept,

    L = MSE(eps_theta(x_t, c_f), sg eps_theta(x_t', c_remap)) + alpha MSE(eps, eps_theta(x_t^r, c_r)).

x_t and x_t' share picture, t and eps but are two samples of the VAE's posterior; sg is today's student without gradients.

Official code: OPTML-Group/Unlearn-Saliency @a6e89fd, `SD/train-scripts/generate_mask.py`, `nsfw_removal.py` (the defaults here) and
`random_label.py` (`shuffle`). `form: 2023` is its loader before 47377e3 and 716e618 (February 2026), which began anew at every step; before
ac880a2 (May 2024) the mask was not applied either (`share: 1`).
Differs from the official code: among equal gradients at the threshold the first in the model's order are in the mask (its unstable
argsort leaves it open). The mask's second VAE sample, and the first t of the mask of nudity, which nothing reads, are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from palimpsest import edits
from palimpsest.data import Concept, Images, said
from palimpsest.diffusion import encode, guided, moments, noisy, predict, predictions
from palimpsest.edits import Erasure
from palimpsest.optimise import descend
from palimpsest.types import Count, Model, NotNegative, Portion, Positive, Text

PICTURES = {"pool": 1, "anchor": 1}  # the least of each role that it learns from
WHERE = {"full": "unet.*", "xattn": "unet.*attn2*"}


def ranked(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of a histogram in which the rank-th largest value lies, and how many values lie in the bins above it."""
    from_top = counts.flip(0).cumsum(0)
    higher = int((from_top < rank).sum())
    return len(counts) - 1 - higher, int(from_top[higher - 1]) if higher else 0


def threshold(sizes: Sequence[Tensor], rank: int) -> tuple[Tensor, int]:
    """The rank-th largest of all values (float32, not negative), and how many are larger.

    Counted, not sorted: the bits of such floats, read as integers, have the order of the values, so one histogram over the upper 16 bits
    and one over the lower 16 within the right bin give the exact value, tensor by tensor.
    """
    bits = [size.view(torch.int32).flatten() for size in sizes]
    high, above = ranked(sum(torch.bincount(b >> 16, minlength=1 << 15) for b in bits), rank)  # type: ignore[arg-type]
    within = [torch.bincount(b[b >> 16 == high] & 0xFFFF, minlength=1 << 16) for b in bits]
    low, between = ranked(sum(within), rank - above)  # type: ignore[arg-type]
    return torch.tensor(high << 16 | low, dtype=torch.int32, device=bits[0].device).view(torch.float32), above + between


def select(sizes: Mapping[str, Tensor], share: float, rule: str) -> dict[str, Tensor]:
    """Masks, true where a weight may move.

    Args:
        sizes: |g| of each parameter, float32.
        rule: "share" takes exactly int(share n) of n weights, of equals at the threshold the first in order; "median" all with |g| at or
            above the lower median.
    """
    total = sum(size.numel() for size in sizes.values())
    rank = int(total * share) if rule == "share" else total - (total - 1) // 2
    gamma, larger = threshold(list(sizes.values()), rank)
    if rule == "median":
        return {name: size >= gamma for name, size in sizes.items()}
    masks, room = {}, rank - larger
    for name, size in sizes.items():
        equal = size == gamma
        taken = equal & (equal.flatten().cumsum(0).view_as(equal) <= room)
        masks[name] = (size > gamma) | taken
        room -= int(taken.sum())
    return masks


def saliency(
    model: Model, trained: Mapping[str, nn.Parameter], latents: Tensor, texts: Text, *, guidance: float, batch: int, draws: torch.Generator
) -> dict[str, Tensor]:
    """|g| of each parameter. The official loss has a minus before it, which |g| does not see."""
    null, parameters = encode(model, [""]), list(trained.values())
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    for rows in tqdm(torch.arange(len(latents)).split(batch), desc="salun: mask", mininterval=1):
        (x_t,), t, eps = noisy(model, draws, latents[rows])
        loss = (predict(model, x_t, t, guided(texts[rows], null, 1 + guidance)) - eps).pow(2).mean()
        torch._foreach_add_(total, list(torch.autograd.grad(loss, parameters, materialize_grads=True)))
    return {name: value.abs_() for name, value in zip(trained, total, strict=True)}


@contextmanager
def frozen(trained: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients are zero outside the masks. Adam without weight decay then leaves those weights as they are, bit for bit."""
    hooks = [p.register_hook(lambda g, out=~masks[name]: g.masked_fill(out, 0)) for name, p in trained.items()]  # type: ignore[misc]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def plan(
    forget: int, retained: int, batch: int, epochs: int, shuffle: bool, form: str, draws: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """The rows of both sets at every step, as two loaders hand them out: the last batch of each is short.

    An epoch is one pass over the pictures to forget. The retained ones begin again with it and when they run out; shuffled, in a new order.
    """
    steps: list[tuple[Tensor, Tensor]] = []
    for _ in range(epochs):
        others: list[Tensor] = []
        for rows in torch.arange(forget).split(batch):
            if form == "2023":
                rows, others = torch.arange(min(batch, forget)), []
            if not others:
                order = torch.randperm(retained, generator=draws) if shuffle else torch.arange(retained)
                others = list(order.split(batch))
            steps.append((rows, others.pop(0)))
    return steps


def first(images: Images, role: str, count: int) -> Images:
    """At most `count` pictures of a role."""
    found = images.only(role)
    if not found.rows:
        key = {"pool": "images", "anchor": "anchors"}[role]
        raise ValueError(
            f"salun learns from pictures of role {role!r} and there are none; `pool: {{{key}: 96}}` in params.yaml has them drawn"
        )
    return replace(found, rows=found.rows[:count])


def contexts(model: Model, given: str | None, own: Sequence[str]) -> Text:
    """The text of each picture encoded, "n n d": the given one, or where that is None its own. Equal ones are encoded once."""
    texts = [text if given is None else given for text in own]
    numbers = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    return encode(model, list(numbers))[[numbers[text] for text in texts]]


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    form: Literal["2026", "2023"] = "2026",
    variant: Literal["full", "xattn"] = "full",
    rule: Literal["share", "median"] = "share",
    share: Portion = 0.5,
    mask_guidance: float = 7.5,
    forget_text: str | None = None,
    remap_text: str | None = None,
    retain_text: str | None = None,
    pictures: Count = 800,
    shuffle: bool = False,
    alpha: NotNegative = 0.1,
    epochs: int = 1,
    batch: Count = 8,
    lr: Positive = 1e-5,
) -> Erasure:
    """Remap the concept's text to another under a mask of salient weights. Forget set: pool pictures; retained set: anchor pictures.

    Args:
        form: of the loader; 2023 shows the first batch of pictures to forget at every step, and a first batch of retained ones.
        variant: which weights may move where the mask, always over the whole UNet, lets them.
        rule: the mask takes the official code's `share`, or what reaches the paper's "median" of |g|.
        mask_guidance: w.
        forget_text, remap_text, retain_text: c_f, c_remap, c_r, with {concept} and {adjective} for the concept's; None is each picture's
            own prompt, for c_remap that of the retained picture of the same number (on `mini` the anchor in the same scene).
        pictures: at most so many of each set.
        shuffle: retained pictures in random order.
        epochs: passes over the pictures to forget.
    """
    total = sum(p.numel() for p in model.unet.parameters())
    if not (0 < share <= 1 and (int(total * share) or rule == "median")):
        raise ValueError(f"salun: share is {share}; the mask takes that of {total} weights: make it enough for one, and 1 at most")
    forget, retained = first(images, "pool", pictures), first(images, "anchor", pictures)
    own, kept = ([row.prompt.text for row in some.rows] for some in (forget, retained))
    named = {"concept": concept.word, "adjective": concept.adjective}
    given = {"forget_text": forget_text, "remap_text": remap_text, "retain_text": retain_text}
    forget_text, remap_text, retain_text = (text and said(f"salun: {name}", text, **named) for name, text in given.items())
    c_f, c_r = contexts(model, forget_text, own), contexts(model, retain_text, kept)
    c_remap = contexts(model, remap_text, [kept[n % len(kept)] for n in range(len(own))])
    z, z_r = moments(model, forget.pixels()), moments(model, retained.pixels())
    draws = torch.Generator().manual_seed(seed)

    with edits.dense(model, WHERE["full"], aside=True) as edit:
        sizes = saliency(model, edit.trained, z, c_f, guidance=mask_guidance, batch=batch, draws=draws)
    masks = select(sizes, share, rule)
    del sizes
    steps = plan(len(z), len(z_r), batch, epochs, shuffle, form, draws)

    def loss(step: int) -> Tensor:
        rows, others = steps[step]
        (x_r,), t_r, eps_r = noisy(model, draws, z_r[others])
        (x, x_other), t, _ = noisy(model, draws, z[rows], z[rows])
        with torch.no_grad():
            (goal,) = predictions(model, x_other, t, [c_remap[rows]])
        texts = torch.cat([c_f[rows], c_r[others]])
        said, denoised = predictions(model, torch.cat([x, x_r]), torch.cat([t, t_r]), [texts])[0].split([len(x), len(x_r)])
        return (said - goal).pow(2).mean() + alpha * (denoised - eps_r).pow(2).mean()

    with edits.dense(model, WHERE[variant], aside=True) as edit, frozen(edit.trained, masks):
        log = descend(loss, edit.parameters, steps=len(steps), lr=lr, optimiser="adam", generator=draws, title="salun")
        made = edit.erasure(log)
        moved = {name: value for name, value in made.tensors.items() if not torch.equal(value, edit.original[name].cpu())}
        return replace(made, tensors=moved)
