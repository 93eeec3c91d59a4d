"""Concept Ablation as in `diffusers/`: a batch for the student and one for the teacher, pictures and prompts read at every step."""

from __future__ import annotations

import copy
from itertools import islice

import torch
from torch import Tensor

from palimpsest.data import Concept, Images
from palimpsest.methods import ca
from palimpsest.types import Model
from plain import encode, latent, noise, noisy, said, trainable, values

RULES = ca.FORMS["diffusers"]


def instance_loss(error: Tensor, views: list[ca.View], size: int) -> Tensor:
    """Squares summed over channels and over the places that count, divided by the number of these, picture by picture."""
    parts = []
    for one, view in zip(error, views, strict=True):
        mask = ca.counted(view, size, error.shape[-1], RULES)[0]
        parts.append(sum(channel.pow(2)[mask == 1].sum() for channel in one) / mask.sum())
    return torch.stack(parts).mean()


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, variant: str = "model-based", trained: str = "cross-attn",
    captions: str = "official", augment: bool | None = None, prior_weight: float = 0.0, teacher: str = "current",
    detach_start: bool = True, steps: int = 100, lr: float = 1.6e-5, batch: int = 8,
) -> dict[str, Tensor]:  # fmt: skip
    """The released training step."""
    draws, anchors = torch.Generator().manual_seed(seed), images.only("anchor")
    texts, size = [row.prompt.text for row in anchors.rows], anchors.pixels([0]).shape[-1]
    choices = [ca.prompts(concept, c, concept.words, RULES, captions) for c in texts]
    augment = concept.kind == "object" if augment is None else augment
    stream = ca.rows(texts, choices, size, RULES, augment=augment, hflip=True, draws=draws)
    erased, kept = zip(*islice(stream, steps * batch), strict=True)
    student, n = model._replace(unet=copy.deepcopy(model.unet)), batch
    weights = trainable(student, ca.WHERE[trained])
    adam = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=0.01)
    for step in range(steps):
        at = slice(step * batch, (step + 1) * batch)
        rows = [*erased[at], *(kept[at] if prior_weight else ())]
        z, eps = noise(model, len(rows), draws), noise(model, len(rows), draws)
        t = torch.randint(1000, (len(rows),), generator=draws)
        pixels = torch.stack([ca.seen(anchors, row.view, RULES) for row in rows])
        x, goal = noisy(model, latent(model, pixels, z), t, eps), eps[:n]
        if variant == "model-based":
            with torch.no_grad():
                says = model.unet if teacher == "frozen" else student.unet
                goal = said(says, x[:n], t[:n], encode(model, [row.anchor for row in rows[:n]]))
        adam.zero_grad()
        with ca.start_detached(student, detach_start):
            guess = said(student.unet, x[:n], t[:n], encode(model, [row.told for row in rows[:n]]))
            loss = instance_loss(guess - goal, [row.view for row in rows[:n]], size)
            if prior_weight:
                again = said(student.unet, x[n:], t[n:], encode(model, [row.told for row in rows[n:]]))
                loss = loss + prior_weight * (again - eps[n:]).pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        adam.step()
    return values(weights)
