"""LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924) between a picture and the unedited model's for the same prompt and seed.

By the authors' package `lpips` (v0.1), which brings the linear layers; the network under them is torchvision's AlexNet or VGG-16.
ESD and RECE compare pictures of 64 by 64 pixels, ESD's resized as here (torchvision's Resize, antialiased), RECE's by OpenCV, which is not.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from palimpsest.data import Images, Scores, to_picture, to_tensor
from palimpsest.scores import distances, instrument, published, tensors
from palimpsest.types import Count, hardware


@cache
def load(net: str, backbone: str | None) -> tuple[Any, Path]:
    """The distance, and the file of the network under it.

    Raises:
        ValueError: the file holds another network.
    """
    import lpips
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    file = published({"alex": AlexNet_Weights, "vgg": VGG16_Weights}[net].IMAGENET1K_V1.url, backbone)
    distance, state = lpips.LPIPS(net=net, pnet_rand=True, verbose=False), tensors(file)
    names = {mine: f"features.{'.'.join(mine.split('.')[-2:])}" for mine in distance.net.state_dict()}  # slice2.3.weight: features.3.weight
    if missing := sorted(set(names.values()) - set(state)):
        raise ValueError(f"{file} has no {missing[0]}; net: {net} needs the weights that torchvision publishes for it")
    distance.net.load_state_dict({mine: state[theirs] for mine, theirs in names.items()})
    return distance.to(hardware()).eval(), file


def ready(net: str, backbone: str | None) -> None:
    load(net, backbone)


def resized(pixels: Tensor, size: int | None) -> Tensor:
    """Pictures "n 3 h w" in [-1, 1], rounded to bytes, with `size` pixels on the shorter side."""
    from torchvision.transforms.functional import resize

    return torch.stack([to_tensor(resize(to_picture(one), [size])) for one in pixels]) if size else pixels


def score(
    images: Images,
    reference: Images | None,
    *,
    net: Literal["alex", "vgg"] = "alex",
    backbone: str | None = None,
    size: Count | None = 64,
) -> Scores:
    """Column `perceptual`, "n", at least 0; not a number where the reference has no such prompt and seed.

    Args:
        net: AlexNet or VGG-16.
        backbone: its file; without one it must lie in torch.hub's cache.
        size: to which the shorter side is brought, in pixels; null: as they are.
    """
    distance, file = load(net, backbone)

    def look(ours: Tensor, theirs: Tensor) -> Tensor:
        return distance(*(resized(pixels, size).to(hardware()) for pixels in (ours, theirs))).flatten()

    by = instrument("lpips", file, net=net, size=size)
    return Scores({"perceptual": distances(images, reference, look, 32)}, {"perceptual": "LPIPS"}, instruments={"perceptual": by})
