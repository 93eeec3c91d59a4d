"""The core types. Latents are "b c h w", texts "b n d" (or "1 n d" for all rows)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Latents = Tensor
Text = Tensor  # what a text is to cross-attention
Mix = list[tuple[Text, float]]  # an affine mix of the model's own predictions: weights sum to one


class Steered(NamedTuple):
    """A guidance that is no mix: of these texts' predictions it makes one, and hands a state on from each step to the next."""

    texts: tuple[Text, ...]
    combine: Callable[[tuple[Latents, ...], int, Any], tuple[Latents, Any]]  # predictions, number of the step, state (None at first)


class Model(NamedTuple):
    """A latent text-to-image model, frozen."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    vae: Any
    scheduler: Any
    guide: Callable[[Text, Text, float], Mix | Steered]  # how a text and the empty text become a prediction
    half: bool = False  # the UNet computes in bfloat16 (autocast); what is trained and all else stays in float32

    @property
    def device(self) -> torch.device:
        return self.unet.device
