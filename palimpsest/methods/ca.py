"""Ablating Concepts in Text-to-Image Diffusion Models (CA). Kumari, Zhang, Wang, Shechtman, Zhang, Zhu. ICCV 2023. arXiv 2303.13516.

On pictures x of an anchor concept with their prompts c, and the same prompts c* with the concept in them, the model-based variant is

    L = E [ w_t || eps_theta(x_t, c*, t) - sg eps_theta(x_t, c, t) ||^2 ],    x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps,

with w_t = 1 and sg a stopped gradient; the noise-based variant has eps in place of the second prediction. `prior_weight` adds
lambda || eps_theta(x'_t, c', t) - eps ||^2 on as many anchor pictures under their own prompts.
Official code: nupurkmr9/concept-ablation @c11fb1b. `form: diffusers` is `diffusers/` (with nudity), `compvis` is `compvis/`, the paper's
own; they differ in style prompts and in augmentation (table `FORMS`). From Custom Diffusion both have that the first token's keys and
values in cross-attention get no gradient (`detach_start`). As there, the first term is a sum over four channels divided by the count of
places, four times a mean squared error, while the second is a plain mean; and `diffusers/` never counts the outermost cells of a latent.
Differs from the official code: all is drawn before the first step, so that each view and each text is encoded once; a batch that a round
leaves short is filled from the next; the article stays when a noun takes another's place (a tree, a church); v-prediction is compared as
noise; no memorised images; of `compvis` neither even scales nor lower case, and as many kept rows as erased ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import pad

from palimpsest import edits
from palimpsest.data import Concept, Images, to_picture, to_tensor
from palimpsest.diffusion import encode, moments, noise, noised, posterior, predict
from palimpsest.edits import Erasure
from palimpsest.optimise import descend
from palimpsest.types import Count, Latents, Model, NotNegative, Positive

NEEDS = ("cross-attention",)  # of families/: without it not defined
PICTURES = {"anchor": 1}  # the least of each role that it learns from
WHERE = {"cross-attn": "unet.*attn2.to_[kv].weight", "attn": "unet.*.to_[qkvo]*", "full": "unet.*"}
FAR, CLOSE = ("a far away ", "very small "), ("zoomed in ", "close up ")


class Form(NamedTuple):
    """What the two official programs do differently with prompts and pictures."""

    style: tuple[str, ...]  # c* of a style, each as likely: {c} is the anchor's prompt, {t} the target
    shrunk: float  # share of augmented pictures that shrink, to a third or more of their size; the others grow by 1.2 to 1.4
    whole: float  # scales from this share of the size up to 1 leave the picture whole
    rim: int  # cells at the border of a whole picture's latent that do not count
    filter: Image.Resampling


STYLED = ("{c}, in the style of {t}", "in {t}'s style, {c}", "in {t}'s style, {c}")  # two of the official three branches are the same
DOUBLED = tuple(f.replace("{t}", t) for f in (STYLED[0], "{t} inspired painting, {c}", STYLED[1]) for t in ("{t} {t}", "{t}"))
FORMS = {
    "diffusers": Form(STYLED, 0.66, 1.0, 1, Image.Resampling.LANCZOS),
    "compvis": Form(DOUBLED, 2 / 3, 0.6, 0, Image.Resampling.BICUBIC),
}
INAPPROPRIATE = ("{t}, {c}", "in {t} style, {c}", "{c}, {t}")


class View(NamedTuple):
    """How a picture is seen: mirrored or not, resized to `scale` pixels, its corner at (top, left) of the frame, below 0 if it grew."""

    row: int
    mirrored: bool
    scale: int
    top: int
    left: int


class Row(NamedTuple):
    """One row of a batch: a view, the prompt for the student, the anchor's prompt for the teacher."""

    view: View
    told: str
    anchor: str


def prompts(concept: Concept, c: str, targets: Sequence[str], rules: Form, captions: str) -> list[list[str]]:
    """For each target the prompts c* made of c, each as likely; for `pairs` one list, the concept's sentences that c came from."""
    if captions == "pairs":
        return [[text for text, anchor in concept.pairs if anchor == c]]
    if concept.kind == "object":
        return [[c.replace(bare(concept.anchor), target)] for target in targets]
    forms = rules.style if concept.kind == "style" else INAPPROPRIATE
    return [[form.format(c=c, t=target) for form in forms] for target in targets]


def bare(phrase: str) -> str:
    """A noun without its article."""
    return phrase.removeprefix("a ").removeprefix("an ")


def check(concept: Concept, anchors: Images, captions: str) -> None:
    """Raises ValueError where concept or pictures lack what is needed."""
    if not anchors.rows:
        raise ValueError(f"concept {concept.name}: CA learns from pictures of the anchor and there are none; set `pool: {{anchors: N}}`")
    for c in sorted({row.prompt.text for row in anchors.rows}):
        if captions == "pairs" and c not in {anchor for _, anchor in concept.pairs}:
            raise ValueError(f"concept {concept.name}: no sentence stands beside {c!r} of the anchor; make prompts and pool again")
        if captions == "official" and concept.kind == "object" and bare(concept.anchor) not in c:
            raise ValueError(f"concept {concept.name}: {bare(concept.anchor)!r} is not in {c!r}; set its `anchor`, or `captions: pairs`")


def pick(draws: torch.Generator, n: int) -> int:
    """A whole number in [0, n)."""
    return int(torch.randint(n, (1,), generator=draws))


def framed(rules: Form, size: int, draws: torch.Generator) -> tuple[int, int, int]:
    """Scale, top and left of an augmented picture, in pixels."""
    if torch.rand((), generator=draws) < rules.shrunk:
        scale = size // 3 + pick(draws, size + 1 - size // 3)
    else:
        scale = int(1.2 * size) + pick(draws, int(1.4 * size) - int(1.2 * size))
    scale = size if rules.whole * size <= scale <= size else scale
    sign, spare = (-1 if scale > size else 1), abs(size - scale)
    return scale, sign * pick(draws, spare + 1), sign * pick(draws, spare + 1)


def rows(
    said: Sequence[str], choices: Sequence[list[list[str]]], size: int, rules: Form, *, augment: bool, hflip: bool, draws: torch.Generator
) -> Iterator[tuple[Row, Row]]:
    """Endless pairs, one to erase and one to keep, in rounds over the pictures, of which `said` are the prompts and `choices` the c*.

    Which target and which kept picture a picture meets is drawn once, as in the official data set.
    """
    shuffled = torch.randperm(len(said), generator=draws).tolist()
    while True:
        for place in torch.randperm(len(said), generator=draws).tolist():
            row = shuffled[place]
            forms = choices[row][place % len(choices[row])]
            view = View(row, bool(hflip and pick(draws, 2)), *(framed(rules, size, draws) if augment else (size, 0, 0)))
            words = FAR if view.scale < 0.6 * size else CLOSE if view.scale > size else ("",)
            erased = Row(view, words[pick(draws, len(words))] + forms[pick(draws, len(forms))], said[row])
            yield erased, Row(View(place, bool(hflip and pick(draws, 2)), size, 0, 0), said[place], said[place])


def seen(images: Images, view: View, rules: Form) -> Tensor:
    """The view as pixels "3 s s" in [-1, 1], 0 around a picture that shrank."""
    (pixels,) = images.pixels([view.row])
    picture = ImageOps.mirror(to_picture(pixels)) if view.mirrored else to_picture(pixels)
    resized, rest = to_tensor(picture.resize((view.scale, view.scale), rules.filter)), pixels.shape[-1] - view.scale
    return pad(resized, (view.left, rest - view.left, view.top, rest - view.top))  # below 0 it cuts


def counted(view: View, size: int, cells: int, rules: Form) -> Tensor:
    """The places of the latent that count, "1 cells cells" of 0 and 1: all of a picture that grew, the inside of one that shrank."""
    if view.scale > size:
        return torch.ones(1, cells, cells)
    mask, cell, rim = torch.zeros(1, cells, cells), size // cells, rules.rim if view.scale == size else 1
    down, right = (slice(first // cell + rim, (first + view.scale) // cell - rim) for first in (view.top, view.left))
    mask[:, down, right] = 1
    return mask


def masked(error: Latents, mask: Tensor) -> Tensor:
    """The official instance loss: squares summed over channels, averaged over the places that count ("b 1 h w"), then over rows."""
    return ((error.pow(2) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)).mean()


@contextmanager
def start_detached(model: Model, wanted: bool) -> Iterator[None]:
    """Within it, if wanted, no gradient reaches keys and values of cross-attention through the first token; what they are stays."""

    def cut(_module: torch.nn.Module, _inputs: object, out: Tensor) -> Tensor:
        return torch.cat([out[:, :1].detach(), out[:, 1:]], dim=1)

    layers = [layer for name, layer in model.unet.named_modules() if wanted and fnmatchcase(name, "*attn2.to_[kv]")]
    hooks = [layer.register_forward_hook(cut) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def distinct(items: Sequence[Any]) -> tuple[list[Any], Tensor]:
    """Each item once, and for every item its place among them."""
    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    return list(places), torch.tensor([places[item] for item in items])


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int,
    variant: Literal["model-based", "noise-based"] = "model-based", form: Literal["diffusers", "compvis"] = "diffusers",
    trained: Literal["cross-attn", "attn", "full"] = "cross-attn", captions: Literal["official", "pairs"] = "official",
    targets: list[str] | None = None, augment: bool | None = None, hflip: bool = True, prior_weight: NotNegative = 0.0,
    teacher: Literal["current", "frozen"] = "current", detach_start: bool = True, steps: Count = 100, lr: Positive = 1.6e-5,
    batch: Count = 8, weight_decay: NotNegative = 0.01, clip: Positive | None = 1.0,
) -> Erasure:  # fmt: skip
    """Fine-tune the UNet to say of the concept's prompts what it says of the anchor's. Defaults: the recipe for styles and objects.

    Args:
        captions: how c* comes from an anchor's prompt: by the official rules for the concept's kind, or as the sentence that it came from.
        targets: what names the concept in c*, in turn; None is the concept's words.
        augment: pictures at random sizes, c* saying so; None is the official choice, objects only.
        prior_weight: lambda; 0 adds no rows. It weighs a mean against four times a mean; `compvis` has 0.2 of the same, here 0.8.
        teacher: whose prediction is the target, today's student without gradients or the frozen original.
        lr: as it reaches the optimiser. The official `--scale_lr` multiplies by batch, GPUs, and 2 with prior rows.
        clip: of the gradient's norm; compvis has none.
    """
    anchors, rules, draws = images.only("anchor"), FORMS[form], torch.Generator().manual_seed(seed)
    check(concept, anchors, captions)
    said, size = [row.prompt.text for row in anchors.rows], anchors.pixels([0]).shape[-1]
    choices = [prompts(concept, c, targets or concept.words, rules, captions) for c in said]
    resized = concept.kind == "object" if augment is None else augment
    stream = rows(said, choices, size, rules, augment=resized, hflip=hflip, draws=draws)
    erased, kept = zip(*islice(stream, steps * batch), strict=True)
    plan = [*erased, *kept] if prior_weight else erased  # step by step what is erased, then step by step what is kept
    views, shown = distinct([row.view for row in plan])
    texts, read = distinct([text for row in plan for text in (row.told, row.anchor)])
    pieces = [views[n : n + 32] for n in range(0, len(views), 32)]
    latents = torch.cat([moments(model, torch.stack([seen(anchors, view, rules) for view in piece])) for piece in pieces])
    contexts = torch.cat([encode(model, texts[n : n + 64]) for n in range(0, len(texts), 64)])
    masks = torch.stack([counted(view, size, latents.shape[-1], rules) for view in views]).to(model.device)
    told, anchor = read.view(-1, 2).T

    def loss(step: int) -> Tensor:
        first = torch.arange(step * batch, (step + 1) * batch)
        at = torch.cat([first, first + steps * batch]) if prior_weight else first
        x, eps = posterior(model, latents[shown[at]], noise(model, draws, len(at))), noise(model, draws, len(at))
        t = torch.randint(1000, (len(at),), generator=draws).to(model.device)
        x_t = noised(model, x, t, eps)
        goal = eps[:batch]
        if variant == "model-based":
            with edit.off() if teacher == "frozen" else torch.no_grad():
                goal = predict(model, x_t[:batch], t[:batch], [(contexts[anchor[first]], 1.0)])
        guess = predict(model, x_t, t, [(contexts[told[at]], 1.0)])
        value = masked(guess[:batch] - goal, masks[shown[first]])
        return value + prior_weight * (guess[batch:] - eps[batch:]).pow(2).mean() if prior_weight else value

    with edits.dense(model, WHERE[trained], aside=teacher == "current") as edit, start_detached(model, detach_start):
        log = descend(loss, edit.parameters, steps=steps, lr=lr, clip=clip, generator=draws, title="ca", weight_decay=weight_decay)
        return edit.erasure(log)
