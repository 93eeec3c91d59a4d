"""Stable Diffusion 1 and 2 (Rombach et al. 2022): one CLIP, whose last hidden state is the text; a UNet that says the noise, or v."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from palimpsest import tokens
from palimpsest.types import Latents, Model, Text

PIPELINE = "StableDiffusionPipeline"
NETWORK = "unet"
SAMPLER = "ddim"
LENGTHS: dict[int, int] = {}
EXTRAS: dict[str, object] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
EXPECTS: dict[str, object] = {}
LACKS: dict[str, str] = {}


def encode(model: Model, texts: Sequence[tokens.Asked], words: tokens.Words) -> Text:
    return tokens.run(model, *tokens.placed(model, texts, words))


def call(model: Model, x: Latents, t: Tensor, context: Tensor, mask: Tensor | None) -> Latents:
    return model.unet(x, t, context, encoder_attention_mask=mask).sample
