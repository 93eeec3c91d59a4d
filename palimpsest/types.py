"""The core types. Latents are "b c h w", texts "b n d" (or "1 n d" for all rows)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

# what settings are, where it is more than their type (workflow/signatures.py); where a plug-in says `int`, it takes 0 too
Count = Annotated[int, "1 or more"]
Timestep = Annotated[int, "0 to 999"]
Timesteps = Annotated[int, "1 to 1000"]  # so many of them
Positive = Annotated[float, "more than 0"]
NotNegative = Annotated[float, "0 or more"]
Share = Annotated[float, "0 to 1"]
Portion = Annotated[float, "more than 0, at most 1"]
File = Annotated[str, "a file"]
Weights = Annotated[str, "a folder, or a name on the hub"]
Latents = Tensor
Text = Tensor  # what a text is to the network: what cross-attention sees, and behind it whatever else the family has (families/)
Level = Any  # t: an integer in [0, 1000), or a float where a sampler's levels lie between
Mix = list[tuple[Text, float]]  # an affine mix of the model's own predictions: weights sum to one


def hardware() -> torch.device:
    """What networks compute on: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Steered(NamedTuple):
    """A guidance that is no mix: of these texts' predictions it makes one, and hands a state on from each step to the next."""

    texts: tuple[Text, ...]
    combine: Callable[[tuple[Latents, ...], int, Any], tuple[Latents, Any]]  # predictions, number of the step, state (None at first)


class Reader(NamedTuple):
    """A text encoder and its tokenizer, whose `model_max_length` is the length of a text."""

    text_encoder: Any
    tokenizer: Any


class Model(NamedTuple):
    """A latent text-to-image model, frozen. `unet` is the network, whatever its kind."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    vae: Any
    scheduler: Any
    guide: Callable[[Text, Text, float], Mix | Steered]  # how a text and the empty text become a prediction
    half: bool = False  # the UNet computes in bfloat16; what is trained and all else stays in float32
    family: str = "sd"  # the file of families/ that knows how a text is read and how the network is called
    others: tuple[Reader, ...] = ()  # text encoders beside the first

    @property
    def readers(self) -> tuple[Reader, ...]:
        return (Reader(self.text_encoder, self.tokenizer), *self.others)

    @property
    def device(self) -> torch.device:
        return self.unet.device
