"""The methods as a plain reading of papers and official programs has them: what ours are held against, in value and in time.

A call of the UNet for each text and for each of student and teacher, the teacher a second network; texts are encoded and pictures go
through the VAE whenever they are needed, and x_t is made when its step comes. Rows come one at a time where the official program has a
batch of one (ESD, DUO, STEREO, FMN, DM2, AdvUnlearn's erased row), together where it has more (CA, SalUn, AdvUnlearn's texts to keep).

Each file has `erase(model, concept, images, *, seed, ...)`: settings are named as in palimpsest/methods/<file>.py, draws come in the same
order, the value is the new weights, named as in the model, which itself stays as it is. tests/test_benchmarks.py shows that both agree,
benchmarks/methods.py times them. Shapes as in palimpsest/diffusion.py; the model predicts the noise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest import edits
from palimpsest.types import Model


def copied(model: Model) -> Model:
    """A model with networks of its own."""
    return model._replace(unet=copy.deepcopy(model.unet), text_encoder=copy.deepcopy(model.text_encoder))


def trainable(model: Model, where: str) -> dict[str, nn.Parameter]:
    """The parameters that `where` names, ready to be trained."""
    found = edits.parameters(model, where)
    for p in found.values():
        p.requires_grad_(True)
    return found


def known(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with their defaults.

    Raises:
        TypeError: one is not known.
    """
    if unknown := given.keys() - defaults.keys():
        raise TypeError(f"settings: the plain form does not know {', '.join(sorted(unknown))}; add it there or leave it out")
    return {**defaults, **given}


def values(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in weights.items()}


def encode(model: Model, texts: Sequence[str]) -> Tensor:
    """The context of texts, "b n d", by the tokenizer and the encoder alone."""
    length = model.tokenizer.model_max_length
    ids = model.tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return model.text_encoder(ids).last_hidden_state


def said(unet: Any, x: Tensor, t: Tensor | int, text: Tensor) -> Tensor:
    """eps(x, t, text)."""
    return unet(x, t, text.expand(len(x), -1, -1)).sample


def noise(model: Model, rows: int, draws: torch.Generator) -> Tensor:
    size = model.unet.config.sample_size
    return torch.randn((rows, model.unet.config.in_channels, size, size), generator=draws)


@torch.no_grad()
def latent(model: Model, pixels: Tensor, z: Tensor) -> Tensor:
    """A sample of the VAE's posterior."""
    spread = model.vae.encode(pixels).latent_dist
    return (spread.mean + spread.std * z) * model.vae.config.scaling_factor


def noisy(model: Model, x: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
    """x_t of Ho et al. 2020, Equation 4; t an integer or "b"."""
    a = model.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * eps


def levels(steps: int) -> list[int]:
    """A schedule of so many steps, from the noisy end; a last entry below 0 stands for the picture."""
    return [1000 // steps * n + 1 for n in reversed(range(-1, steps))]


@torch.no_grad()
def ddim(model: Model, unet: Any, x: Tensor, text: Tensor, null: Tensor, visited: Sequence[int], guidance: float) -> Tensor:
    """DDIM (Song et al. 2021) from each visited level to the next with classifier-free guidance, two calls a step."""
    abar = model.scheduler.alphas_cumprod
    for t, after in pairwise(visited):
        e_text, e_null = said(unet, x, t, text), said(unet, x, t, null)
        e = e_null + guidance * (e_text - e_null)
        a, b = abar[t], abar[max(after, 0)]
        x = b.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
    return x
