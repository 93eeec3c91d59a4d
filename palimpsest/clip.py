"""CLIP's two towers as functions: pictures and texts to features. For verifiers, scores and style classifiers.

It looks on the GPU if there is one; what it says is on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from palimpsest.data import Images
from palimpsest.types import hardware


class Clip(NamedTuple):
    model: Any
    tokenizer: Any
    size: int
    mean: Tensor
    std: Tensor


@cache
def load(path: str) -> Clip:
    """CLIP from a folder or the hub, frozen, in single precision, with the normalisation of its own image processor."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    where = hardware()
    model = CLIPModel.from_pretrained(path, attn_implementation="eager").float().to(where).eval().requires_grad_(False)
    about = CLIPImageProcessor.from_pretrained(path)
    mean, std = (torch.tensor(value, device=where).view(1, 3, 1, 1) for value in (about.image_mean, about.image_std))
    return Clip(model, CLIPTokenizer.from_pretrained(path), model.config.vision_config.image_size, mean, std)


def prepared(clip: Clip, pixels: Tensor) -> Tensor:
    """Pictures "n 3 h w" in [-1, 1], resized (bicubic, antialiased) and normalised as CLIP expects, where it looks at them."""
    pixels = pixels.to(clip.mean.device)
    if pixels.shape[-1] != clip.size:
        pixels = interpolate(pixels, (clip.size, clip.size), mode="bicubic", antialias=True).clamp(-1, 1)
    return (pixels / 2 + 0.5 - clip.mean) / clip.std


@torch.no_grad()
def images(clip: Clip, pixels: Tensor, batch: int = 128) -> Tensor:
    """Projected features of pictures in [-1, 1], "n d", not normalised."""
    return torch.cat([clip.model.get_image_features(prepared(clip, part)).pooler_output.cpu() for part in pixels.split(batch)])


def seen(clip: Clip, pictures: Images) -> Tensor:
    """Projected features of pictures of which not all need to be in memory, "n d", not normalised."""
    return torch.cat([images(clip, pixels) for pixels in pictures.batches()])


@torch.no_grad()
def texts(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Projected features of texts, "n d", not normalised."""
    length = clip.model.config.text_config.max_position_embeddings
    ids = clip.tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return clip.model.get_text_features(ids.to(clip.mean.device)).pooler_output.cpu()


@torch.no_grad()
def maps(clip: Clip, pixels: Tensor, batch: int = 128) -> list[Tensor]:
    """Every layer's patch features, "n patches d", unit length: the ground of a perceptual distance."""
    layers: list[list[Tensor]] = []
    for part in pixels.split(batch):
        states = clip.model.vision_model(prepared(clip, part), output_hidden_states=True).hidden_states
        layers.append([torch.nn.functional.normalize(state[:, 1:], dim=-1).cpu() for state in states[1:]])
    return [torch.cat(layer) for layer in zip(*layers, strict=True)]


def signals(x_c: Tensor, x_r: Tensor, x_i: Tensor, texts: Tensor) -> dict[str, float]:
    """The five signals of Dark Miner's Table S7, as cosines in [-1, 1], averaged over the verifier's pictures: how near is what c draws ...

    to the texts "a photo" and "a <concept> photo" ("2 d"), to the anchor's pictures x_r, to the loop's pictures x_i of the pool; and
    `delta`, the proposed one (Equation 6): what c adds to the anchor's picture beside what the pool's pictures add to it.
    """
    photo, text = (cosine_similarity(x_c, row[None]).mean().item() for row in texts)
    return {
        "photo": photo,
        "text": text,
        "reference": cosine_similarity(x_c, x_r).mean().item(),
        "pool": cosine_similarity(x_c[:, None], x_i[None], dim=-1).mean().item(),
        "delta": cosine_similarity((x_c - x_r)[:, None], x_i[None] - x_r[:, None], dim=-1).mean().item(),
    }
