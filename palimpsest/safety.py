"""What is never asked of a model: prompts that sexualise minors.

For concepts of the kind "inappropriate" every prompt with a word for a minor is dropped before a picture is drawn, and a search over
tokens may not choose one. That is wider than the sexual concepts which it is there for, and costs nothing. There is no switch.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.data import ALONE, Concept, Prompts

STEMS = (  # wherever in a word, unless it says otherwise
    "child", "toddler", "infant(?!r)", "newborn", "youngster", "youth", "adolescen", "juvenil", "pubert", "pubescen", r"pre\s?school",
    "schooler", "kindergart", "lolita", "lolicon", "shotacon", r"jail\s?bait", "bab(?:y|ies)(?!lon)", r"(?<!s)kid(?:d(?:o|y|ie))?[sz]?\b",
    r"\b(?:pre)?teen", r"\btweens?\b", r"\bminors\b", r"\b(?:loli|shota)s?\b", r"\bunder\s?(?:the\s)?(?:age|(?:18|eighteen)\b)",
)  # fmt: skip
SMALL, WHO = r"(?:young|little|school|small|tiny)", r"(?:girl|boy|daughter|sister|brother|\bsons?\b)"
PEOPLE = (rf"{SMALL}\w*(?:\W+\w+){{0,2}}?\W*{WHO}", r"(?:girl|boy)s?(?:\W+\w+){0,2}?\W+(?:young|school)")  # a young naked girl
FIGURES = r"(?:[1-9]|1[0-7])"
SPELT = "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen)"
AGES = (
    rf"\b{FIGURES}\s?(?:y(?:\W{{0,3}}o)?\b|yrs?|years?)",
    rf"(?<!ty )\b{SPELT}\s?(?:y\W{{0,3}}o\b|(?:yrs?|years?)\s?(?:olds?\b|of age))",
    r"months?\s?olds?\b",
    rf"\bage[ds]?\W*(?:(?:of|is)\s)?(?:{FIGURES}|{SPELT})\b",
    rf"(?:girl|boy)s?\W+{FIGURES}\b(?!\s?[dk]\b)",  # not in 3D or 4K
)
MINORS = re.compile("|".join((*STEMS, *PEOPLE, *AGES)))
TOGETHER = ("girl", "boy", "young", "younger", "youngest", "little", "daughter", "minor")  # words that are one beside another
PARTS = re.compile("|".join((*TOGETHER, "school", "teen", "baby", r"\bkid(?!n|man)")))  # of what several tokens may say


def plainly(text: str) -> str:
    """In small letters without accents, marks that are not seen, and hyphens."""
    kinds = ((character, unicodedata.category(character)) for character in unicodedata.normalize("NFKD", text))
    return " ".join("".join(" " if kind in ("Pd", "Pc") else c for c, kind in kinds if kind not in ("Cf", "Mn")).casefold().split())


def about_minors(text: str) -> bool:
    """Whether a text has a word for a minor, or an age below 18."""
    return bool(MINORS.search(plainly(text)))


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


def sifted(concept: Concept, prompts: Prompts) -> tuple[Prompts, Counter[str]]:
    """`kept`; and how many texts were dropped, and how many units (plain prompts for the concept) of which no text is left.

    Raises:
        ValueError: nothing is left.
    """
    left = kept(concept, prompts)
    if prompts.rows and not left.rows:
        raise ValueError(f"{concept.name}: every one of {len(prompts.rows)} texts has a word for a minor, and none is asked; give others")
    about = [(ALONE - n if row.unit == ALONE else row.unit, row) for n, row in enumerate(prompts.rows) if row.purpose == "concept"]
    lost = {unit for unit, _ in about} - {unit for unit, row in about if askable(concept, row.text)}
    return left, Counter(texts=len(prompts.rows) - len(left.rows), units=len(lost))


def allowed(concept: Concept, tokenizer: Any) -> Tensor:
    """Which tokens a search may choose, booleans "v": none that is a word for a minor, nor one that becomes such beside another.

    A search may still spell a word with several tokens: the texts that it finds go through `kept`.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if not guarded(concept):
        return torch.ones(len(names), dtype=torch.bool)
    words = [plainly(name.replace("</w>", "")) for name in names]
    return torch.tensor([not (MINORS.search(word) or PARTS.search(word)) for word in words])
