"""Circumventing Concept Erasure Methods for Text-to-Image Generative Models (CCE). Pham, Marshall, Cohen, Mittal, Hegde. ICLR 2024.

arXiv 2308.01508. Concept inversion: a new word whose vectors let the erased model denoise pictures of the concept, all weights frozen,

    noise:     min_v E_{i, t, eps} || eps - eps_theta'(x_t, t, TE(caption with v)) ||^2     (Equation 2, weight-edited models),
    guidance:  min_v E || u + s (c - u) - g(*) ||^2, with the erasing guidance g, such as n + s (* - n) of a negative prompt n,
    path:      the same behind SLD's recursion along falling t over one x_0 and one eps, with the loss at the last t,

u, c, * the predictions for "", for what the guidance turns away from (n itself; on captions of prompts: the picture's prompt) and for the
word. White box; it needs pictures of the concept from the unedited model, and not that model itself. Official code:
NYU-DICE-Lab/circumventing-concept-erasure @bb7034b: the common loop of its weight-edited folders, `np` and `sld`.
Differs from the official code: only the new rows are trained (equal to training the table and restoring the rest), in one true batch
instead of accumulated ones, on cached VAE moments of each picture and of its mirror image, drawn with replacement; a word of several
vectors takes as many places (there captions name its first vector alone); predictions that do not hold the word keep no graph; float32 or
bfloat16, not float16 with a scaled loss; no step on the rest of an epoch; SLD's recursion is of eps where the network says v, too. SLD's
warm-up: `warmup`. `prefixed` is what its generate_i2p.py means and has the wrong way round (the word only where there is none).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from palimpsest import search, tokens
from palimpsest.data import Concept, Images, Prompt, Prompts
from palimpsest.diffusion import both_ways, encode, guided, kind, noised, posterior, predict, predictions, rates
from palimpsest.draws import Draws, Seeded, Stream
from palimpsest.types import Count, Latents, Mix, Model, NotNegative, Positive, Steered, Text, Timesteps

BUDGET = (
    "white box; one word of {vectors} rows, {steps} steps of {batch} pictures (SLD: {path_steps} of {path_batch} x {path_levels}); "
    "one picture a prompt"
)
WORD = "concept"  # the learned word, <concept> in texts
LISTS = Path(__file__).with_name("cce.json")


class Pool(NamedTuple):
    seen: Tensor  # moments of the pictures and of their mirror images, "2 n 2c h w"
    prompts: list[str]  # of each picture
    captions: list[str]  # with the word: one for each picture, or templates, any of them for any picture
    paired: bool  # whether it is one for each


class Against(NamedTuple):
    objective: str
    scale: float
    aim: str | None
    span: int
    levels: int  # 1: any
    warmup: int | None


def renamed(text: str, concept: Concept) -> str:
    """The text with each of the concept's words replaced by the learned one; where it has none, the learned one stands before it."""
    names = "|".join(re.escape(word) for word in sorted(concept.words, key=len, reverse=True))
    said, count = re.subn(rf"\b({names})(?:e?s)?\b", f"<{WORD}>", text, flags=re.IGNORECASE)
    return said if count else f"<{WORD}> {text}"


def listed(concept: Concept, templates: str) -> list[str]:
    """Captions with a gap for the word: the concept's own, or a published list.

    Raises:
        ValueError: the concept has none.
    """
    if templates != "concept":
        return json.loads(LISTS.read_text())[templates]
    if not concept.texts.get("templates"):
        raise ValueError(f"concept {concept.name}: texts has no 'templates'; gen_prompts writes it, or say `templates: object`")
    return list(concept.texts["templates"])


def asked(plain: Prompts, concept: Concept, templates: list[str], eval_prompts: str) -> list[Prompt]:
    """What the erased model is asked with the learned word, each with the seed of a plain prompt that should show the concept."""
    rows = [row._replace(stage=1) for row in plain.units().rows]
    if eval_prompts == "templates":
        return [row._replace(text=templates[n % len(templates)].format(f"<{WORD}>")) for n, row in enumerate(rows)]
    if eval_prompts == "prefixed":
        return [row._replace(text=f"<{WORD}> {row.text}") for row in rows]
    return [row._replace(text=renamed(row.text, concept)) for row in rows]


def fitting(model: Model, guidance: float) -> str:
    """The objective against the model's guidance: `noise` for the ordinary one, `guidance` for another mix, `path` for one with a state."""
    null = encode(model, [""])
    mix = model.guide(word := null.clone(), null, guidance)
    if isinstance(mix, Steered):
        return "path"
    return "noise" if all(text is word or text is null for text, _ in mix) else "guidance"


def stateless(mix: Mix) -> Steered:
    """A mix as a guidance without a state."""

    def combine(said: tuple[Latents, ...], *_: Any) -> tuple[Latents, None]:
        return torch.stack([weight * eps for (_, weight), eps in zip(mix, said, strict=True)]).sum(0), None

    return Steered(tuple(text for text, _ in mix), combine)


def levels(draws: Draws, rows: int, against: Against) -> Tensor:
    """Falling levels "m b", drawn from [n - span, n) without replacement, n from [span, 1000); a single one is drawn from [0, 1000)."""
    if against.levels == 1:
        return draws.integers(1000, 1, rows)
    each = [draws.integers(1000 - against.span, 1) + draws.order(against.span)[: against.levels] for _ in range(rows)]
    return torch.stack(each, dim=1).sort(dim=0, descending=True).values


def steered(model: Model, x: Latents, eps: Latents, path: Tensor, way: Steered, word: Text, warmup: int | None) -> Latents:
    """What the erasing guidance makes of the word at the last of the levels "m b", its state handed on from the first."""
    others = [text for text in way.texts if text is not word]
    states: list[Any] = [None] * len(x)
    for t in path:
        x_t = noised(model, x, t, eps)
        with torch.no_grad():
            known = iter(predictions(model, x_t, t, others))
        (mine,) = checkpoint(predictions, model, x_t, t, [word], use_reentrant=False)  # else a path keeps a graph a level
        said = [mine if text is word else next(known) for text in way.texts]
        steps = [10**6] * len(x) if warmup is None else ((999 - t) * warmup // 1000).tolist()
        rows = [way.combine(tuple(e[[n]] for e in said), step, states[n]) for n, step in enumerate(steps)]
        states = [state for _, state in rows]
    return torch.cat([row for row, _ in rows])


def picked(model: Model, pool: Pool, draws: Draws, size: int, against: Against) -> tuple[Tensor, Latents, Tensor, Latents]:
    """Pictures "b" of the pool, a sample of the latents of each as it is or mirrored, levels "m b" and a noise."""
    rows, mirrored = (draws.integers(count, size) for count in (len(pool.prompts), 2))
    shape = (size, pool.seen.shape[2] // 2, *pool.seen.shape[3:])
    x = posterior(model, pool.seen[mirrored, rows], draws.noise(*shape).to(model.device))
    return rows, x, levels(draws, size, against).to(model.device), draws.noise(*shape).to(model.device)


def captioned(model: Model, pool: Pool, draws: Draws, words: tokens.Words, rows: Tensor) -> Text:
    lines = rows if pool.paired else draws.integers(len(pool.captions), len(rows))
    return encode(model, [pool.captions[n] for n in lines], words)


def squared(model: Model, error: Latents, t: Tensor) -> Tensor:
    """The mean square of an error of eps, as an error of what the network says, be it v or a velocity."""
    return (error if kind(model) == "epsilon" else error / rates(model, t)[0]).pow(2).mean()


def losing(model: Model, concept: Concept, pool: Pool, draws: Draws, size: int, against: Against) -> Callable[[tokens.Words], Tensor]:
    """The loss on `size` pictures."""
    null = encode(model, [""])

    def wanted(turned: list[Text], rows: Tensor) -> Text:
        if against.aim is None and pool.paired:
            return encode(model, [pool.prompts[row] for row in rows])
        if against.aim is None and turned:
            return turned[0]
        return encode(model, [(against.aim or "{concept}").format(concept=concept.word)])

    def loss(words: tokens.Words) -> Tensor:
        rows, x, path, eps = picked(model, pool, draws, size, against)
        word, t = captioned(model, pool, draws, words, rows), path[-1]
        if against.objective == "noise":
            return squared(model, eps - predict(model, noised(model, x, t, eps), t, [(word, 1.0)]), t)
        mix = model.guide(word, null, against.scale)
        way = mix if isinstance(mix, Steered) else stateless(mix)
        goal = wanted([text for text in way.texts if text is not word and text is not null], rows)
        with torch.no_grad():
            target = predict(model, noised(model, x, t, eps), t, guided(goal, null, against.scale))
        return squared(model, target - steered(model, x, eps, path, way, word, against.warmup), t)

    return loss


def checked(
    model: Model, images: Images, plain: Prompts, asks: Sequence[Prompt], captions: Sequence[str], start: Tensor, span: int, count: int
) -> list[Prompt]:
    """What is asked, with a look at all that is needed before anything is trained; the plain prompt itself where the word has no room.

    Raises:
        ValueError: no pictures, nothing to ask, no room in a caption or in any prompt, or a path of more levels than its span.
    """

    def holds(text: str) -> bool:
        with suppress(ValueError):
            return bool([tokens.layout(reader, text, {WORD: start}) for reader in model.readers])
        return False

    if not len(images):
        raise ValueError("images: none of role 'pool' for cce to learn from; draw some (`pool.images` in params.yaml)")
    if not 1 < count <= span < 1000:
        raise ValueError(f"cce: path_levels: {count} in a span of {span}; write 2 or more, at most `path_span`, and that below 1000")
    if not asks:
        raise ValueError(search.NOTHING)
    made = [ask if holds(ask.text) else row for ask, row in zip(asks, plain.units().rows, strict=True)]
    if not (kept := sum(row.stage for row in made)) or not all(map(holds, captions)):
        room = model.tokenizer.model_max_length
        raise ValueError(f"vectors: a word of {len(start)} does not fit into {room} tokens beside a caption, or any prompt; write fewer")
    if kept < len(made):
        print(f"palimpsest: {len(made)} prompts, {kept} of them short enough; the others are asked plainly", file=sys.stderr)
    return made


def attack(
    model: Model, concept: Concept, images: Images, *, original: Callable[[], Model], plain: Prompts, seed: int, draws: Stream = Seeded,
    vectors: Count = 1, steps: int = 5000, batch: Count = 16, lr: Positive = 0.08, weight_decay: NotNegative = 0.01,
    initialiser: str | None = None, learn_from: Literal["captioned", "pool"] = "captioned", pictures: Count | None = None,
    captions: Literal["templates", "prompts"] = "templates",
    templates: Literal["concept", "object", "style", "person", "person-sld"] = "concept",
    eval_prompts: Literal["replaced", "prefixed", "templates"] = "replaced", warmup: int | None = None,
    objective: Literal["auto", "noise", "guidance", "path"] = "auto", guidance: float = 7.5, aim: str | None = None,
    path_steps: int = 1000, path_batch: Count = 4, path_lr: Positive = 0.02, path_span: Timesteps = 90, path_levels: Timesteps = 35,
) -> Prompts:  # fmt: skip
    """Learn a word for the concept in the erased model, and ask with it.

    Args:
        vectors: rows of the new word.
        initialiser: the word of one token that it starts from; None: the concept's.
        learn_from, pictures: the first of the pictures of the captions, where there are any (those in which the judge sees most of the
            concept), or of the pool; None: all.
        captions: of the training pictures: a random template with the word, or (I2P mode) the word before the picture's own prompt.
        templates: the concept's own, or those of the paper for an object, a style or a person (with SLD).
        eval_prompts: the plain prompts with the concept's words replaced or the word before them, if it fits in; or the templates.
        objective: `auto`: what fits the model's guidance.
        guidance: s, of the objectives `guidance` and `path`.
        aim: what their target is asked, {concept} being the concept's name; None: c, as above.
        path_steps, path_batch, path_lr: in place of `steps`, `batch` and `lr` where the objective is `path`.
        path_span, path_levels: a path's levels are so many, out of so wide a range.
        warmup: length of the schedule in which a guidance counts its warm-up steps; None: they are over, as they soon are in the official
            code, which counts steps of the training.
    """
    fits = fitting(model, guidance) if objective == "auto" else objective
    images = (learn_from == "captioned" and images.only("captioned")) or images.only("pool")
    gaps, start = listed(concept, templates), tokens.vector(model, initialiser or concept.initialiser).repeat(vectors, 1)
    own = [row.prompt.text for row in images.rows][:pictures]
    known = [f"<{WORD}> {text}" for text in own] if captions == "prompts" else [text.format(f"<{WORD}>") for text in gaps]
    asks = checked(model, images, plain, asked(plain, concept, gaps, eval_prompts), known, start, path_span, path_levels)
    if fits == "path":
        steps, batch, lr = path_steps, path_batch, path_lr
    pool = Pool(both_ways(model, images.pixels(range(len(own)))), own, known, captions == "prompts")
    stream, against = draws(seed), Against(fits, guidance, aim, path_span, path_levels if fits == "path" else 1, warmup)
    loss = losing(model, concept, pool, stream, batch, against)
    words, log = tokens.invert(
        model, loss, {WORD: start}, steps=steps, lr=lr, optimiser="adamw", weight_decay=weight_decay, generator=stream, title="cce",
    )  # fmt: skip
    return Prompts(asks, words, log)
