"""Circumventing Concept Erasure Methods for Text-to-Image Generative Models (CCE). Pham, Marshall, Cohen, Mittal, Hegde. ICLR 2024.

arXiv 2308.01508. Concept inversion: a new word whose vectors let the erased model denoise pictures of the concept,

    min_v E_{i, t, eps} || eps - eps_theta'(x_t, t, TE(caption with v)) ||^2     (Equation 2, weight-edited models),

all weights frozen. White box; it needs pictures of the concept from the unedited model, and not that model itself.
Official code: NYU-DICE-Lab/circumventing-concept-erasure, the common loop of its weight-edited folders.
Differs from the official code: only the new rows are trained (equal to training the table and restoring the rest), in one true batch
instead of accumulated ones, on cached VAE moments of each picture and of its mirror image.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from palimpsest import tokens
from palimpsest.data import Concept, Images, Prompt, Prompts
from palimpsest.diffusion import both_ways, encode, noisy, predict
from palimpsest.types import Model

WORD = "concept"  # the learned word, <concept> in texts


def learnable(model: Model, start: str, vectors: int) -> Tensor:
    """The first value of the new rows, "k d": the initialiser's vector in each."""
    return tokens.vector(model, start).repeat(vectors, 1)


def renamed(text: str, concept: Concept) -> str:
    """The text with each of the concept's words replaced by the learned one."""
    names = "|".join(re.escape(word) for word in sorted(concept.words, key=len, reverse=True))
    return re.sub(rf"\b({names})\b", f"<{WORD}>", text)


def asked(plain: Prompts, concept: Concept, templates: list[str], eval_prompts: str) -> list[Prompt]:
    """What the erased model is asked with the learned word, each with the seed of a plain prompt that should show the concept."""
    rows = [row for row in plain.rows if row.purpose == "concept"]
    if eval_prompts == "templates":
        return [row._replace(text=templates[n % len(templates)].format(f"<{WORD}>")) for n, row in enumerate(rows)]
    if eval_prompts == "prefixed":
        return [row._replace(text=f"<{WORD}> {row.text}") for row in rows]
    return [row._replace(text=renamed(row.text, concept)) for row in rows]


def attack(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    original: Callable[[], Model],
    plain: Prompts,
    seed: int,
    vectors: int = 1,
    steps: int = 5000,
    batch: int = 16,
    lr: float = 0.08,
    weight_decay: float = 0.01,
    captions: Literal["templates", "prompts"] = "templates",
    eval_prompts: Literal["replaced", "prefixed", "templates"] = "replaced",
) -> Prompts:
    """Learn a word for the concept in the erased model, and ask with it.

    Args:
        vectors: rows of the new word.
        captions: of the training pictures: a random template with the word, or (I2P mode) the word before the picture's own prompt.
        eval_prompts: the plain prompts with the concept's words replaced, or with the word before them; or the templates.
    """
    draws = torch.Generator().manual_seed(seed)
    templates = list(concept.texts["templates"])
    images = images.only("pool")
    pixels = images.pixels()
    seen = both_ways(model, pixels)

    def loss(words: tokens.Words) -> Tensor:
        rows = torch.randint(len(images), (batch,), generator=draws)
        mirrored = torch.randint(2, (batch,), generator=draws)
        (x_t,), t, eps = noisy(model, draws, seen[mirrored, rows])
        if captions == "prompts":
            texts = [f"<{WORD}> {images.rows[row].prompt.text}" for row in rows]
        else:
            picked = torch.randint(len(templates), (batch,), generator=draws)
            texts = [templates[n].format(f"<{WORD}>") for n in picked]
        guess = predict(model, x_t, t, [(encode(model, texts, words), 1.0)])
        return (eps - guess).pow(2).mean()

    words, log = tokens.invert(
        model, loss, {WORD: learnable(model, concept.initialiser, vectors)},
        steps=steps, lr=lr, optimiser="adamw", weight_decay=weight_decay, generator=draws, title="cce",
    )  # fmt: skip
    return Prompts(asked(plain, concept, templates, eval_prompts), words, log)
