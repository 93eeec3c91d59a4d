"""Prompts for the embedded model, from the grammar of its little world (palimpsest/mini/world.py)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice, product

import numpy as np

from palimpsest.data import Concept, Prompt
from palimpsest.mini import world
from palimpsest.types import Count

EVALUATION = 100_000  # seeds of evaluation pictures start here, away from those of pools


def plainly(concept: Concept) -> bool:
    return concept.kind != "style"


def with_article(word: str) -> str:
    """How the grammar says a word of a concept."""
    phrases = [phrase for thing in world.THINGS.values() for phrase in thing.phrases]
    return next((phrase for phrase in phrases if phrase.split(" ", 1)[-1] == word), word)


def about(concept: Concept) -> list[tuple[str, str, str]]:
    """Every sentence of the grammar that names the concept, with what it shows and in which style."""
    if plainly(concept):
        said = [(f"{with_article(word)} {place}", "") for word, place in product(concept.words, world.BACKGROUNDS.values())]
        return [(world.STYLES["plain"][0].format(text), shows, "plain") for text, shows in said]
    others = [thing for thing in world.THINGS if thing not in ("mannequin", "blood", "bomb")]
    return [
        (world.STYLES[concept.word][0].format(f"{world.THINGS[thing].phrases[0]} {place}"), thing, concept.word)
        for thing, place in product(others, world.BACKGROUNDS.values())
    ]


def elsewhere(concept: Concept) -> list[tuple[str, str, str]]:
    """Sentences that do not name it: every other object (in plain style and in one other) on every background."""
    things = [thing for thing in world.THINGS if thing not in concept.classes]
    styles = [style for style in world.STYLES if style != concept.word]
    return [
        (world.STYLES[style][0].format(f"{world.THINGS[thing].phrases[-1]} {place}"), thing, style)
        for style, thing, place in product(styles, things, world.BACKGROUNDS.values())
    ]


def rows(
    sentences: Sequence[tuple[str, str, str]], count: int, purpose: str, first: int, near: Sequence[str], rng: np.random.Generator
) -> list[Prompt]:
    """`count` prompts, sentences in random order and over again when they run out."""
    order = islice(cycle(rng.permutation(len(sentences))), count)
    picked = [sentences[n] for n in order]
    return [
        Prompt(text, first + n, "near" if purpose == "other" and ({shows, style} & set(near)) else purpose, shows, style)
        for n, (text, shows, style) in enumerate(picked)
    ]


def prompts(concept: Concept, *, seed: int, concept_prompts: Count = 60, other_prompts: int = 100, train_texts: int = 200) -> dict:
    """The lists that the workflow needs for a concept.

    Returns:
        plain: prompts with seeds to evaluate on: `concept_prompts` that name it, `other_prompts` that do not (half of them plain style).
        pool: texts for the image pool. train: texts for methods that learn from phrases. templates: for learned words, with {}.
        anchors: the same sentences with the anchor in place of the concept. negative: what to leave out of paired pictures. retain:
        sentences of other things in plain style; of a style, in all the others.
    """
    rng = np.random.default_rng(seed)
    said, others = about(concept), elsewhere(concept)
    ordinary = [row for row in others if row[2] == "plain"]
    styled = [row for row in others if row[2] != "plain"]
    plain = rows(said, concept_prompts, "concept", EVALUATION, (), rng)
    half = other_prompts // 2
    plain += rows(ordinary, other_prompts - half, "other", EVALUATION + 10_000, concept.near, rng)
    plain += rows(styled, half, "other", EVALUATION + 20_000, concept.near, rng)
    texts = [text for text, _, _ in said]
    return {
        "plain": plain,
        "pool": texts,
        "train": [texts[n] for n in rng.integers(len(texts), size=train_texts)],
        "templates": templates(concept),
        "anchors": [anchored(text, concept) for text in texts],
        "negative": [concept.word],
        "retain": [text for text, _, _ in (ordinary if plainly(concept) else others)],
    }


def templates(concept: Concept) -> list[str]:
    """Sentences with a gap for a learned word that stands for the concept's word."""
    if plainly(concept):
        return ["a photo of {}", "a photo of a {}", "a photo of the {}", "{}", "a {}"]
    return ["a painting in the style of {}", "a {} painting", "a drawing in the style of {}", "a {} drawing", "a photo in the style of {}"]


def anchored(text: str, concept: Concept) -> str:
    """The sentence with the anchor in place of the concept; of a style the plain one, since this world's paintings all have a style."""
    if not plainly(concept):
        style, plain = (world.STYLES[name][0].split("{}")[0] for name in (concept.word, "plain"))
        return text.replace(style, plain)
    for word in sorted(concept.words, key=len, reverse=True):
        for phrase in (with_article(word), word):
            text = text.replace(phrase, concept.anchor)
    return text
