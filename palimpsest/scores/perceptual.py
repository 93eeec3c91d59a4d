"""Distance between a picture and the unedited model's for the same prompt and seed, in the form of LPIPS (Zhang et al. 2018).

Unit-length patch features of every layer of CLIP, squared difference summed over channels, averaged over patches, summed over layers:
LPIPS' formula with all weights one, on other features; its name in tables says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palimpsest import clip
from palimpsest.data import Images, Scores
from palimpsest.scores import distances


def ready(clip_model: str) -> None:
    clip.load(clip_model)


def score(images: Images, reference: Images | None, *, clip_model: str, name: str) -> Scores:
    """Column `perceptual`, "n", at least 0; not a number where the reference has no such prompt and seed.

    Args:
        name: what the distance is to be called in tables, such as LPIPS-mini.
    """
    eye = clip.load(clip_model)

    def look(ours: Tensor, theirs: Tensor) -> Tensor:
        layers = zip(clip.maps(eye, ours), clip.maps(eye, theirs), strict=True)
        return torch.stack([(a - b).pow(2).sum(-1).mean(-1) for a, b in layers]).sum(0)

    return Scores({"perceptual": distances(images, reference, look)}, {"perceptual": name})
