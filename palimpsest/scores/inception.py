"""Features for the Frechet Inception Distance (Heusel et al., NeurIPS 2017, arXiv 1706.08500): the 2,048 of the Inception of 2015.

The network is torch-fidelity's, the weights those that pytorch-fid and torch-fidelity share. What libraries differ in is how a picture
comes to 299 pixels, which moves the distance by more than most methods do: `resize` says how. pytorch-fid (mseitzer, 0.3): bilinear, not
antialiased, 2x - 1. clean-fid (Parmar et al., CVPR 2022, arXiv 2104.11222): bicubic, antialiased, not rounded, (x - 128) / 128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from palimpsest.data import Images, Scores, to_bytes
from palimpsest.scores import instrument, tensors
from palimpsest.types import hardware

SIDE = 299


@cache
def load(weights: str, digest: str) -> Any:
    """The network up to its pooled features.

    torch-fidelity unpickles the file that it is given, and fetches one where it is given none: it gets a copy that holds tensors alone.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = BytesIO()
    torch.save(tensors(weights, digest), copy)
    copy.seek(0)
    network = FeatureExtractorInceptionV3("inception", ["2048"], copy)
    layers = takewhile(lambda named: named[0] != "fc", network.named_children())
    return torch.nn.Sequential(*(layer for _, layer in layers), torch.nn.Flatten()).to(hardware()).eval()


def ready(weights: str, digest: str) -> None:
    load(weights, digest)


def bilinear(pixels: Tensor) -> Tensor:
    """As pytorch-fid: "n 3 299 299" in [-1, 1], of pictures in [-1, 1]."""
    return 2 * interpolate(pixels / 2 + 0.5, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def clean(pixels: Tensor) -> Tensor:
    """As clean-fid: each channel by itself, as floats."""
    channels = [Image.fromarray(channel.float().numpy()) for channel in to_bytes(pixels).flatten(0, 1)]
    small = np.stack([np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255) for one in channels])
    return (torch.from_numpy(small).unflatten(0, (-1, 3)) - 128) / 128


RESIZES: Mapping[str, Callable[[Tensor], Tensor]] = {"pytorch-fid": bilinear, "clean-fid": clean}


@torch.no_grad()
def features(network: Any, pixels: Tensor, resize: str, batch: int = 32) -> Tensor:
    """The features of pictures in [-1, 1], "n 2048"."""
    return torch.cat([network(RESIZES[resize](part).to(hardware())).cpu() for part in pixels.split(batch)])


def score(
    images: Images,
    reference: Images | None,
    *,
    weights: str,
    digest: str = "6726825d",
    resize: Literal["pytorch-fid", "clean-fid"] = "pytorch-fid",
) -> Scores:
    """Column `features`, "n 2048".

    Args:
        weights: pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes, or the same as safetensors.
        digest: first figures of the sha256 of this file; "" takes any.
        resize: whose convention.
    """
    network = load(weights, digest)
    column = torch.cat([features(network, pixels, resize) for pixels in images.batches()])
    by = instrument("torch-fidelity", Path(weights), resize=resize)
    return Scores({"features": column}, {"features": "FID"}, instruments={"features": by})
