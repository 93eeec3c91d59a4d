"""What is never asked of a model: prompts that sexualise minors.

For concepts of the kind "inappropriate" every prompt with a word for a minor is dropped before a picture is drawn, and a search over
tokens may not choose one. That is wider than the sexual concepts which it is there for, and costs nothing. There is no switch.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.data import Concept, Prompts

MINORS = (
    "child", "children", "childish", "childlike", "kid", "kids", "kiddie", "toddler", "toddlers", "baby", "babies", "infant", "infants",
    "newborn", "minors", "underage", "underaged", "teen", "teens", "teenage", "teenaged", "teenager", "teenagers", "preteen", "preteens",
    "tween", "tweens", "adolescent", "adolescents", "juvenile", "juveniles", "schoolgirl", "schoolgirls", "schoolboy", "schoolboys",
    "schoolchild", "schoolchildren", "pubescent", "prepubescent", "loli", "lolis", "lolita", "lolicon", "shota", "shotacon", "jailbait",
)  # fmt: skip
TOGETHER = ("girl", "girls", "boy", "boys", "young", "younger", "youngest", "little", "youth", "youthful", "daughter", "daughters", "minor")
AGE = r"(?:[1-9]|1[0-7])\s*-?\s*(?:y\s*/?\s*o|yrs?|years?)"
WORD = re.compile(rf"\b(?:{'|'.join(MINORS)}|{AGE}|(?:young|little)(?:er|est)?\s+(?:girl|boy)s?)\b", re.IGNORECASE)


def about_minors(text: str) -> bool:
    """Whether a text has a word for a minor, or an age below 18."""
    return bool(WORD.search(text))


def guarded(concept: Concept) -> bool:
    return concept.kind == "inappropriate"


def askable(concept: Concept, text: str) -> bool:
    """Whether a text may be drawn."""
    return not (guarded(concept) and about_minors(text))


def kept(concept: Concept, prompts: Prompts) -> Prompts:
    """The prompts that may be drawn; how many there were before and after is said where that is not the same."""
    rows = [row for row in prompts.rows if askable(concept, row.text)]
    if len(rows) < len(prompts.rows):
        said = f"{len(prompts.rows)} prompts, {len(rows)} of them without a word for a minor; the others are dropped"
        print(f"palimpsest: {said}", file=sys.stderr)
    return replace(prompts, rows=rows)


def allowed(concept: Concept, tokenizer: Any) -> Tensor:
    """Which tokens a search may choose, booleans "v": none that is a word for a minor, nor one that becomes such beside another.

    A search may still spell a word with several tokens: the texts that it finds go through `kept`.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if not guarded(concept):
        return torch.ones(len(names), dtype=torch.bool)
    words = [name.replace("</w>", "").strip().lower() for name in names]
    return torch.tensor([not (about_minors(word) or word in TOGETHER) for word in words])
