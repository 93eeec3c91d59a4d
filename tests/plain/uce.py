"""UCE's paper form as in `train_erase.py`: one linear system a layer, the texts encoded anew for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest import edits
from palimpsest.closed_form import WHERE, last_word
from palimpsest.data import Concept, Images
from palimpsest.types import Model
from plain import encode


def states(model: Model, text: str) -> Tensor:
    return encode(model, [text])[0].double()


def layer(
    model: Model,
    w: Tensor,
    words: Sequence[str],
    target: str,
    retain: Sequence[str],
    lamb: float,
    scale: float,
    keep: float,
) -> Tensor:
    """Equation 7 for one weight "m d", in float64."""
    left, right = lamb * w, lamb * torch.eye(w.shape[1], dtype=torch.float64)
    for word in words:
        start, other = last_word(model, word), last_word(model, target)
        length = model.tokenizer.model_max_length - max(start, other)
        c, c_new = states(model, word)[start : start + length], states(model, target)[other : other + length]
        left, right = left + scale * (w @ c_new.T) @ c, right + scale * c.T @ c
    for text in retain:
        c = states(model, text)
        left, right = left + keep * (w @ c.T) @ c, right + keep * c.T @ c
    return left @ torch.linalg.inv(right)


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, target: str = " ", retain: Sequence[str] = ("",), lamb: float = 0.5,
    erase_scale: float = 1.0, preserve_scale: float = 1.0,
) -> dict[str, Tensor]:  # fmt: skip
    """Layer by layer, in float64."""
    old = {name: p.detach().double() for name, p in edits.parameters(model, WHERE).items()}
    given = concept.words, target, retain, lamb, erase_scale, preserve_scale
    return {name: layer(model, w, *given) for name, w in old.items()}
