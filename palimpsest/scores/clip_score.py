"""CLIP-Score (Hessel et al. 2021, in the convention of torchmetrics): 100 max(cos(picture, prompt), 0).

A text that is too long keeps its end token, at which CLIP reads it; torchmetrics cuts that off too.
"""

from __future__ import annotations

from torch.nn.functional import cosine_similarity

from palimpsest import clip
from palimpsest.data import Images, Scores


def ready(clip_model: str) -> None:
    clip.load(clip_model)


def score(images: Images, reference: Images | None, *, clip_model: str) -> Scores:
    """Column `clip_score`, "n", in [0, 100]: how well each picture fits its own prompt."""
    eye = clip.load(clip_model)
    text = clip.texts(eye, [row.prompt.text for row in images.rows])
    return Scores({"clip_score": 100 * cosine_similarity(clip.seen(eye, images), text).clamp(min=0)}, {"clip_score": clip_model})
