"""Distance between a picture and the unedited model's for the same prompt and seed, in the form of LPIPS (Zhang et al. 2018).

Unit-length patch features of every layer of CLIP, squared difference summed over channels, averaged over patches, summed over layers:
LPIPS' formula with all weights one, on other features; its name in tables says so.
"""

from __future__ import annotations

import torch

from palimpsest import clip
from palimpsest.data import Images, Scores


def score(images: Images, reference: Images | None, *, clip_model: str, name: str) -> Scores:
    """Column `perceptual`, "n", at least 0; not a number where the reference has no such prompt and seed.

    Args:
        name: what the distance is to be called in tables, such as LPIPS-mini.
    """
    distance = torch.full((len(images),), float("nan"))
    place = {(row.prompt.text, row.prompt.seed): n for n, row in enumerate(reference.rows)} if reference else {}
    pairs = [(n, place[key]) for n, row in enumerate(images.rows) if (key := (row.prompt.text, row.prompt.seed)) in place]
    if reference and pairs:
        eye = clip.load(clip_model)
        ours = clip.maps(eye, images.pixels([n for n, _ in pairs]))
        theirs = clip.maps(eye, reference.pixels([m for _, m in pairs]))
        per_layer = [(a - b).pow(2).sum(-1).mean(-1) for a, b in zip(ours, theirs, strict=True)]
        distance[[n for n, _ in pairs]] = torch.stack(per_layer).sum(0)
    return Scores({"perceptual": distance}, {"perceptual": name})
