"""RECE as in `train.py`: UCE, then rounds of finding what still means the concept and of editing it away, each layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest import edits
from palimpsest.closed_form import WHERE
from palimpsest.data import Concept, Images
from palimpsest.types import Model
from plain import uce
from plain.uce import states


def found(
    model: Model, words: Sequence[str], target: str, now: dict[str, Tensor], original: dict[str, Tensor], rho: float, rule: str
) -> list[Tensor]:
    """Equation 8: what is to the edited layers what each word is to the original ones; by `rule` drawn to zero or to the target."""
    eye = torch.eye(next(iter(now.values())).shape[1], dtype=torch.float64)
    made = []
    for word in words:
        c = states(model, word)
        said = sum((w.T @ w for w in now.values()), torch.zeros_like(eye))
        wanted = sum((now[name].T @ original[name] for name in now), torch.zeros_like(eye))
        drawn_to = rho * states(model, target) if rule == "standard" else 0
        made.append((drawn_to + c @ wanted.T) @ torch.linalg.inv(rho * eye + said).T)
    return made


def edited(
    model: Model, w: Tensor, adversarial: Sequence[Tensor], target: str, kept: Sequence[str], lamb: float, scale: float, keep: float
) -> Tensor:
    """UCE's edit of one layer, with vectors in place of words."""
    left, right = lamb * w, lamb * torch.eye(w.shape[1], dtype=torch.float64)
    for c in adversarial:
        left, right = left + scale * (w @ states(model, target).T) @ c, right + scale * c.T @ c
    for text in kept:
        c = states(model, text)
        left, right = left + keep * (w @ c.T) @ c, right + keep * c.T @ c
    return left @ torch.linalg.inv(right)


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, rounds: int = 3, rho: float = 0.1, regularisation: str = "zero",
    target: str = " ", retain: Sequence[str] | None = None, lamb: float = 0.1, erase_scale: float = 1.0, preserve_scale: float = 0.1,
    uce_retain: Sequence[str] = ("",), uce_lamb: float = 0.5, uce_preserve_scale: float = 1.0,
) -> dict[str, Tensor]:  # fmt: skip
    """Layer by layer, in float64."""
    original = {name: p.detach().double() for name, p in edits.parameters(model, WHERE).items()}
    kept = retain
    if kept is None:  # train.py; train_object.py and train_artists.py
        kept = [" " for _ in concept.words] if concept.kind == "inappropriate" else [""]
    now = uce.erase(model, concept, images, seed=seed, target=target, retain=uce_retain, lamb=uce_lamb, preserve_scale=uce_preserve_scale)
    for _ in range(rounds):
        adversarial = found(model, concept.words, target, now, original, rho, regularisation)
        now = {name: edited(model, w, adversarial, target, kept, lamb, erase_scale, preserve_scale) for name, w in now.items()}
    return now
