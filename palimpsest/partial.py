"""x_t by partial denoising, many rows at a time, each to before a step of the schedule of its own: ESD and AdvUnlearn train on it."""

from __future__ import annotations

import torch
from torch import Tensor

from palimpsest.diffusion import denoise, guided
from palimpsest.types import Latents, Model, Text

FORGETFUL = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")  # a step of theirs knows of none before it


@torch.no_grad()
def partly(model: Model, x: Latents, until: Tensor, text: Text, null: Text, *, steps: int, start: int, guidance: float) -> Latents:
    """x_t of all rows, each denoised under its text from step `start` to before its own `until`, "r".

    Rows that go on longer go on together. Where the sampler remembers earlier steps, and would not behind a halt, those of the same stop
    alone go together, and all the way.
    """
    x, halts = x.clone(), type(model.scheduler).__name__ in FORGETFUL
    for stop in until.unique().tolist():
        on = until >= stop if halts and stop > start else until == stop
        x[on] = denoise(model, x[on], guided(text[on], null, guidance), steps, stop, start)[0]
        start = max(start, stop) if halts else start
    return x
