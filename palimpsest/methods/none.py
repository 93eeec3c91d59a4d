"""No erasure: the unedited model, through the same pipeline as every method."""

from __future__ import annotations

from palimpsest.data import Concept, Images
from palimpsest.edits import Erasure
from palimpsest.types import Model


def erase(model: Model, concept: Concept, images: Images, *, seed: int) -> Erasure:
    """Change nothing."""
    return Erasure("nothing")
