"""Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206): two CLIPs and T5, joint attention (MMDiT), a rectified flow.

A Text is "b 334 4096": the last but one states of the CLIPs side by side, those of T5 (256) below, and the pooled texts of both CLIPs in
the last row. The network says the velocity eps - x0. Joint attention has no mask: texts of different lengths are asked one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest import tokens
from palimpsest.families import apart, with_pooled
from palimpsest.types import Latents, Model, Text

PIPELINE = "StableDiffusion3Pipeline"
NETWORK = "transformer"
SAMPLER = "flow"
LENGTHS: dict[int, int] = {2: 256}  # diffusers' default; T5's own files say 512
EXTRAS: dict[str, object] = {}
EXPECTS: dict[str, object] = {}
LACKS: dict[str, str] = {
    "cross-attention": "SD3 attends to text and picture jointly; there is no attn2",
    "keys of the text": "SD3's keys and values of the text change with the picture from layer to layer",
    "one encoder": "SD3 reads a text with three encoders, of which T5 has other tokens",
    "noise": "SD3 says a velocity, which at the first level of sampling leaves open what the noise is",
}


def encode(model: Model, texts: Sequence[tokens.Asked], words: tokens.Words) -> Text:
    shares = zip(model.readers, tokens.shares(model, words), strict=True)
    *clips, t5 = [(reader, *tokens.placed(reader, texts, share)) for reader, share in shares]
    said = [tokens.output(*clip, output_hidden_states=True) for clip in clips]
    below = tokens.run(*t5)
    above = torch.cat([one.hidden_states[-2] for one in said], dim=2)
    above = torch.nn.functional.pad(above, (0, below.shape[2] - above.shape[2]))
    return with_pooled(torch.cat([above, below], dim=1), torch.cat([one.text_embeds for one in said], dim=1))


def call(model: Model, x: Latents, t: Tensor, context: Tensor, mask: Tensor | None) -> Latents:
    context, mask, pooled = apart(context, mask, model.unet.config.pooled_projection_dim)
    if mask is None:
        return model.unet(x, context, pooled, t).sample
    lengths = mask.sum(1)
    alike = [(lengths == length).nonzero()[:, 0] for length in lengths.unique().tolist()]
    said = [model.unet(x[rows], context[rows, : int(lengths[rows[0]])], pooled[rows], t[rows]).sample for rows in alike]
    return torch.cat(said)[torch.cat(alike).argsort()]
