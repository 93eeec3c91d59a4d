"""PixArt-alpha (Chen et al. 2023, arXiv 2310.00426): T5, 120 tokens of small letters, and a transformer with cross-attention.

A row of zeros is padding, in a text as `encode` gives it and in one that was filled up: cross-attention does not see it. What is wholly
zero hides nothing, since all its rows are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from palimpsest import tokens
from palimpsest.types import Latents, Model, Text

PIPELINE = "PixArtAlphaPipeline"
NETWORK = "transformer"
SAMPLER = "dpm"
LENGTHS: dict[int, int] = {0: 120}  # the paper's; T5's own files say 512
EXTRAS: dict[str, object] = {}
EXPECTS: dict[str, object] = {}
LACKS: dict[str, str] = {
    "keys of the text": "PixArt's keys and values read a text behind its caption_projection",
    "one encoder": "PixArt reads a text with T5, not with CLIP",
    "clip words": "PixArt's tokens are T5's",
}


def encode(model: Model, texts: Sequence[tokens.Asked], words: tokens.Words) -> Text:
    ids, embeddings = tokens.placed(model, [text.lower().strip() if isinstance(text, str) else text for text in texts], words)
    shown = (ids != model.tokenizer.pad_token_id).long()
    return tokens.output(model, ids, embeddings, attention_mask=shown).last_hidden_state * shown[:, :, None]


def call(model: Model, x: Latents, t: Tensor, context: Tensor, mask: Tensor | None) -> Latents:
    size = model.unet.config.sample_size * 2 ** (len(model.vae.config.block_out_channels) - 1)
    sizes = {"resolution": x.new_full((len(x), 2), size), "aspect_ratio": x.new_ones(len(x), 1)}  # that of 1024 pixels alone reads them
    out = model.unet(x, context, t, sizes, encoder_attention_mask=(context != 0).any(2)).sample
    return out[:, : x.shape[1]]  # behind it a variance, which no sampler here uses
