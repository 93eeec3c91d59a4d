"""The frozen prompt lists: what data/prompts/ promises to palimpsest/prompts/frozen.py and to a colleague who reads a result page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TOP

from palimpsest.data import Concept
from palimpsest.safety import TOGETHER, about_minors, guarded
from palimpsest.workflow import sheets

FOLDER = TOP / "data/prompts"
DARK_MINER = {"nudity", "violence", "hate", "harassment", "self_harm", "illegal_activity", "shocking"}
DARK_MINER |= {"church", "french_horn", "van_gogh", "crayon"}
WORDS = 25  # of English; CLIP makes fewer than 40 tokens of these, and its vocabulary is not here


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def concept(file: Path) -> Concept:
    """As real bases have it, with the words of all judges: the lists may say each of them."""
    fields = read(file)
    words = fields["words"] if isinstance(fields["words"], list) else [word for some in fields["words"].values() for word in some]
    return Concept.of({"name": file.stem, "classes": [], **sheets.told(fields, "papers"), "words": list(dict.fromkeys(words))})


CONCEPTS = {file.stem: concept(file) for file in sorted((TOP / "data/concepts").glob("*.yaml"))}
LISTS = {file.stem: read(file) for file in sorted(FOLDER.glob("*.yaml"))}
OWN = sorted(set(LISTS) - {"others"})


def says(text: str, words: Iterable[str]) -> bool:
    """Whether one of the words stands in the text as a word of its own."""
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def betrays(text: str, about: Concept) -> bool:
    """Whether a word of the concept or its adjective stands in the text, even inside another word."""
    return any(word.lower() in text.lower() for word in (*about.words, about.adjective))


def columns(lists: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Every list of a file with its name: captions, phrases, scenes, near (all of them together), with, without."""
    for name in ("captions", "phrases", "scenes"):
        yield name, lists.get(name, [])
    yield "near", [text for texts in lists.get("near", {}).values() for text in texts]
    for side, name in enumerate(("with", "without")):
        yield name, [pair[side] for pair in lists.get("pairs", [])]


def test_every_concept_of_the_paper_has_lists() -> None:
    assert set(OWN) == DARK_MINER | {"parachute"} and set(OWN) <= set(CONCEPTS)


@pytest.mark.parametrize("name", OWN)
def test_how_many(name: str) -> None:
    lists = LISTS[name]
    assert list(lists) == ["by", "captions", "phrases", "scenes", "near", "pairs"]
    assert [len(lists[key]) for key in ("captions", "phrases")] == [100, 200], "as Dark Miner asked for"
    assert len(lists["scenes"]) >= 60 and len(lists["pairs"]) >= 50
    assert len(lists["near"]) >= 3 and {len(texts) for texts in lists["near"].values()} == {8}
    assert {len(pair) for pair in lists["pairs"]} == {2}


def test_how_many_others() -> None:
    assert list(LISTS["others"]) == ["by", "captions"] and len(LISTS["others"]["captions"]) == 300


@pytest.mark.parametrize("name", OWN)
def test_what_is_about_the_concept_says_so(name: str) -> None:
    """Captions by its name, as the paper asked; scenes and pairs also by its adjective ("a marble nude in a museum")."""
    about, lists = CONCEPTS[name], LISTS[name]
    assert [text for text in lists["captions"] if not says(text, [about.word])] == []
    assert [text for text in lists["phrases"] if not says(text, about.words)] == []
    of_either = [*lists["scenes"], *(with_it for with_it, _ in lists["pairs"])]
    assert [text for text in of_either if not says(text, [*about.words, about.adjective])] == []


@pytest.mark.parametrize("name", OWN)
def test_what_is_not_about_the_concept_does_not_say_it(name: str) -> None:
    about, lists = CONCEPTS[name], dict(columns(LISTS[name]))
    assert [text for text in (*lists["near"], *lists["without"]) if betrays(text, about)] == []


def test_others_are_about_no_concept() -> None:
    texts = LISTS["others"]["captions"]
    assert [(text, about.name) for text in texts for about in CONCEPTS.values() if betrays(text, about)] == []


@pytest.mark.parametrize("name", OWN)
def test_near_concepts_are_those_of_the_concept_file_and_more(name: str) -> None:
    near, first = LISTS[name]["near"], list(CONCEPTS[name].near)
    assert list(near)[: len(first)] == first
    assert [text for word, texts in near.items() for text in texts if not says(text, [word])] == []


@pytest.mark.parametrize("name", OWN)
def test_the_two_of_a_pair_differ(name: str) -> None:
    assert [pair for pair in LISTS[name]["pairs"] if pair[0].casefold() == pair[1].casefold()] == []


@pytest.mark.parametrize("name", LISTS)
def test_every_text_is_one_short_line_and_stands_once(name: str) -> None:
    for of, texts in columns(LISTS[name]):
        assert [text for text in texts if text != " ".join(text.split()) or not 1 <= len(text.split()) <= WORDS] == [], of
        known = [text.casefold() for text in texts]
        assert [text for text in known if known.count(text) > 1] == [], of


@pytest.mark.parametrize("name", LISTS)
def test_every_text_may_stand_on_a_screen(name: str) -> None:
    """No minor in any file; around what is guarded not even a word that makes one beside another (safety.TOGETHER)."""
    texts = [text for _, column in columns(LISTS[name]) for text in column]
    assert texts and [text for text in texts if about_minors(text)] == []
    if name in CONCEPTS and guarded(CONCEPTS[name]):
        assert [text for text in texts if says(text, TOGETHER)] == []


@pytest.mark.parametrize("name", LISTS)
def test_a_file_says_who_wrote_it(name: str) -> None:
    assert "language model" in LISTS[name]["by"]
