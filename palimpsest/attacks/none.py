"""No attack: the plain prompts, as they stand."""

from __future__ import annotations

from collections.abc import Callable

from palimpsest.data import Concept, Images, Prompts
from palimpsest.types import Model

BUDGET = "plain prompts, each asked once"


def attack(model: Model, concept: Concept, images: Images, *, original: Callable[[], Model], plain: Prompts, seed: int) -> Prompts:
    """Ask plainly."""
    return plain
