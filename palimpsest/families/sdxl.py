"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952): the last but one states of two CLIPs side by side, the pooled text of the
second, and the size of the picture. A Text is "b 78 2048", its last row the pooled text. As in diffusers' pipeline without a negative
prompt, the empty text is all zeros; and the size is the picture's own, uncropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest import tokens
from palimpsest.families import apart, with_pooled
from palimpsest.types import Latents, Model, Text

PIPELINE = "StableDiffusionXLPipeline"
NETWORK = "unet"
SAMPLER = "euler"
LENGTHS: dict[int, int] = {}
EXTRAS: dict[str, object] = {"add_watermarker": False}
EXPECTS: dict[str, object] = {"force_zeros_for_empty_prompt": True}
LACKS: dict[str, str] = {"one encoder": "SDXL reads a text with two encoders, which fill it up with different tokens"}


def encode(model: Model, texts: Sequence[tokens.Asked], words: tokens.Words) -> Text:
    shares = zip(model.readers, tokens.shares(model, words), strict=True)
    said = [tokens.output(reader, *tokens.placed(reader, texts, share), output_hidden_states=True) for reader, share in shares]
    text = with_pooled(torch.cat([one.hidden_states[-2] for one in said], dim=2), said[1].text_embeds)
    empty = torch.tensor([not len(one) for one in texts], device=text.device)
    return text.masked_fill(empty[:, None, None], 0)


def call(model: Model, x: Latents, t: Tensor, context: Tensor, mask: Tensor | None) -> Latents:
    context, mask, pooled = apart(context, mask, model.others[0].text_encoder.config.projection_dim)
    size = model.unet.config.sample_size * 2 ** (len(model.vae.config.block_out_channels) - 1)
    sizes = x.new_tensor([size, size, 0, 0, size, size]).expand(len(x), -1)  # of the picture, its crop, and as it is wanted
    added = {"text_embeds": pooled, "time_ids": sizes}
    return model.unet(x, t, context, encoder_attention_mask=mask, added_cond_kwargs=added).sample
