"""Image features of CLIP, from which the report computes a Frechet distance between sets of pictures."""

from __future__ import annotations

from palimpsest import clip
from palimpsest.data import Images, Scores


def ready(clip_model: str) -> None:
    clip.load(clip_model)


def score(images: Images, reference: Images | None, *, clip_model: str, name: str) -> Scores:
    """Column `features`, "n d".

    Args:
        name: what the distance over these features is to be called in tables, such as FID-mini.
    """
    return Scores({"features": clip.seen(clip.load(clip_model), images)}, {"features": name})
