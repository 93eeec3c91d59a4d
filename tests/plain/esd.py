"""ESD as in `train-esd.py` of 2023: the student draws x_t, a second network says what it is to become.

As in `esd_sd.py` of 2025 the second network draws it too, and the target starts from what that says of the concept.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from palimpsest.data import Concept, Images
from palimpsest.methods.esd import where
from palimpsest.types import Model
from plain import ddim, encode, levels, noise, said, trainable, values


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, form: str = "2023", variant: str = "x", eta: float = 1.0,
    steps: int = 1000, lr: float = 1e-5, batch: int = 1, sampler_steps: int = 50, guidance: float = 3.0,
) -> dict[str, Tensor]:  # fmt: skip
    """Equation 6, row by row."""
    draws, visited = torch.Generator().manual_seed(seed), levels(sampler_steps)
    student = model._replace(unet=copy.deepcopy(model.unet))
    weights = trainable(student, where(variant, form))
    adam = torch.optim.Adam(weights.values(), lr=lr)
    for _ in range(steps):
        words = torch.randint(len(concept.words), (batch,), generator=draws)
        until = int(torch.randint(sampler_steps, (1,), generator=draws))
        adam.zero_grad()
        for word, x in zip(words.tolist(), noise(model, batch, draws).split(1), strict=True):
            text, null, t = encode(model, [concept.words[word]]), encode(model, [""]), visited[until]
            x = ddim(model, (model if form == "2025" else student).unet, x, text, null, visited[: until + 1], guidance)
            with torch.no_grad():
                e_c, e_0 = said(model.unet, x, t, text), said(model.unet, x, t, null)
            start = e_c if form == "2025" else e_0
            ((said(student.unet, x, t, text) - (start - eta * (e_c - e_0))).pow(2).mean() / batch).backward()
        adam.step()
    return values(weights)
