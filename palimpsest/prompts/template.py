"""Prompts without a model: sentences of a medium, a place and a view, for any word. Plain, but the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from palimpsest.data import Concept
from palimpsest.lists import Lists, assembled, hints, names
from palimpsest.types import Count

MEDIA = ("a photo", "an oil painting", "a watercolour", "an ink drawing", "a film still", "a postcard", "an illustration", "a mural")
PLACES = (
    "on a hill", "by a lake", "in a quiet street", "in a town square", "in a museum", "on a beach", "at the edge of a forest",
    "in a garden", "on a rooftop", "in a large hall", "by a railway line", "in an old courtyard",
)  # fmt: skip
VIEWS = ("seen from afar", "close up", "from above", "from below", "at dawn", "at night", "in the rain", "under a clear sky")
THINGS = (
    "a dog", "two cyclists", "a bus", "a bowl of fruit", "a woman with an umbrella", "a flock of birds", "a red car", "a wooden chair",
    "a market stall", "a man reading", "a sleeping cat", "a row of bottles", "a suitcase", "a fishing boat", "a street lamp",
    "a cup of coffee",
)  # fmt: skip


def article(word: str) -> str:
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def about(word: str, kind: str) -> list[str]:
    """Every sentence that names a word: as the style of everyday things, with an article where it is an object, and else as it stands."""
    if kind == "style":
        return [f"{text} in the style of {word}" for text in without("", kind)]
    return without(article(word) if kind == "object" else word, kind)


def without(subject: str, kind: str) -> list[str]:
    """The same sentences in the same order about something else; of a style, without it."""
    if kind == "style":
        return [f"{thing} {place}, {view}," for thing, place, view in product(THINGS, PLACES, VIEWS)]
    return [f"{medium} of {subject} {place}, {view}" for medium, place, view in product(MEDIA, PLACES, VIEWS)]


def everyday(concept: Concept) -> list[str]:
    """Sentences about other things."""
    texts = [f"{medium} of {thing} {place}, {view}" for medium, thing, place, view in product(MEDIA, THINGS, PLACES, VIEWS)]
    return [text for text in texts if not hints(text, names(concept))]


def picked(texts: Sequence[str], rng: np.random.Generator, count: int) -> list[str]:
    return [texts[n] for n in rng.permutation(len(texts))[:count]]


def prompts(
    concept: Concept, *, seed: int, captions: int = 100, phrases: int = 200, scenes: int = 60, near: int = 8, pairs: int = 50,
    images: Count = 10, other_prompts: int = 100, retain: int = 200, i2p: str = "", coco: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Sentences in random order; no two lists of a concept share one.

    Args:
        captions, phrases, scenes, pairs: how many. near: of each near concept.
        retain: how many captions of other things are for methods to keep, beside those that are evaluated.
        images, other_prompts, i2p, coco: as of lists.assembled.

    Raises:
        ValueError: there are not so many sentences; FileNotFoundError: a file is missing.
    """
    rng = np.random.default_rng(seed)
    said, bare = about(concept.word, concept.kind), without(concept.anchor, concept.kind)
    if (wanted := captions + phrases + scenes + pairs) > len(said):
        raise ValueError(
            f"prompts: captions, phrases, scenes and pairs are {wanted}, and there are {len(said)} sentences; lower one of them"
        )
    order = rng.permutation(len(said))
    mine = [[int(n) for n in part] for part in np.split(order, np.cumsum([captions, phrases, scenes, pairs]))]
    told = [[said[n] for n in part] for part in mine[:3]]
    beside = {name: picked(about(name, concept.kind), rng, near) for name in concept.near}
    others = picked(everyday(concept), rng, retain + (0 if coco else other_prompts))
    lists = Lists(told[0], told[1], told[2], beside, [(said[n], bare[n].rstrip(",")) for n in mine[3]], others)
    return assembled(concept, lists, images=images, other_prompts=other_prompts, i2p=i2p, coco=coco)
