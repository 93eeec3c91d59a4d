"""torchvision's ResNet-50 (He et al., CVPR 2016, arXiv 1512.03385) as a judge of objects, as in ESD, AdvUnlearn and RECE.

Unlike YOLOv8 it is free of the AGPL and needs no training; its thousand classes are ImageNet's. Pictures go through the transforms that
torchvision publishes with the weights. (UnlearnDiffAtk takes the same network with other weights, microsoft/resnet-50.)
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from palimpsest.data import Images, Scores, to_picture
from palimpsest.scores import instrument, published, tensors
from palimpsest.types import hardware


@cache
def load(form: str, weights: str | None) -> tuple[Any, Any, Path]:
    """The network, torchvision's card of its weights, and their file."""
    from torchvision.models import ResNet50_Weights, resnet50

    card = ResNet50_Weights[form]
    network, file = resnet50(), published(card.url, weights)
    network.load_state_dict(tensors(file))
    return network.to(hardware()).eval(), card, file


def ready(form: str, weights: str | None) -> None:
    load(form, weights)


@torch.no_grad()
def probabilities(network: Any, card: Any, pixels: Tensor) -> Tensor:
    """Of the classes, "n 1000", for pictures "n 3 h w" in [-1, 1]."""
    transforms = card.transforms()
    seen = torch.stack([transforms(to_picture(one)) for one in pixels])
    return network(seen.to(hardware())).softmax(-1).cpu()


def score(
    images: Images,
    reference: Images | None,
    *,
    form: Literal["IMAGENET1K_V1", "IMAGENET1K_V2"] = "IMAGENET1K_V2",
    weights: str | None = None,
) -> Scores:
    """Column `objects`, "n 1000": the probability of every class. Their names are torchvision's in small letters, as concepts write them.

    Args:
        form: which of torchvision's weights these are (V2 is its default, and theirs); its transforms belong to it.
        weights: their file; without one they must lie in torch.hub's cache.
    """
    network, card, file = load(form, weights)
    column = torch.cat([probabilities(network, card, pixels) for pixels in images.batches()])
    by = instrument("torchvision", file, form=form)
    return Scores({"objects": column}, {"objects": [name.lower() for name in card.meta["categories"]]}, instruments={"objects": by})
