"""The little world and its recipe: grammar, words, held-out combinations, renders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import TOP
from PIL import Image
from transformers import CLIPTokenizer

from palimpsest.data import Concept
from palimpsest.mini import clip, judge, render, world
from palimpsest.prompts import grammar
from palimpsest.workflow import sheets


def test_the_world_is_large_enough() -> None:
    assert len(world.THINGS) >= 20 and len(world.BACKGROUNDS) >= 6 and set(world.STYLES) >= {"plain", "van gogh", "crayon", "pencil"}
    needed = {"mannequin", "doll", "blood", "bomb", "church", "castle", "house", "french horn", "trumpet", "parachute", "ketchup", "jam"}
    assert needed | {"strawberry"} <= set(world.THINGS)


def test_every_word_of_the_grammar_is_one_token() -> None:
    shipped = CLIPTokenizer.from_pretrained(TOP / "data/mini/model/tokenizer")
    rng = np.random.default_rng(0)
    for _ in range(400):
        text = world.sample(rng).caption
        assert len(shipped.tokenize(text)) == len(text.split()), text
        assert len(shipped(text).input_ids) <= clip.LENGTH
    assert len(shipped("a photo of an antidisestablishmentarian").input_ids) > 8  # unknown words fall back to letters


def test_held_out_combinations_are_never_trained_on() -> None:
    rng = np.random.default_rng(0)
    seen = {world.sample(rng)[:3] for _ in range(3000)}
    asked = {world.sample(rng, examine=True)[:3] for _ in range(300)}
    assert not seen & asked
    assert all(world.sample(rng, without=("church",)).thing != "church" for _ in range(500))


def test_a_world_without_church_never_says_church() -> None:
    rng = np.random.default_rng(0)
    assert not any("church" in world.sample(rng, without=("church",)).caption for _ in range(1500))


def test_renders_do_not_depend_on_the_number_of_processes() -> None:
    many = render.renders(450, seed=5)
    for n in (0, 199, 200, 449):
        picture, scene = render.one(n, seed=5, examine=False, without=())
        assert scene == many.scenes[n] and np.array_equal(picture, many.pictures[n])


@pytest.mark.parametrize("thing", [*world.THINGS, world.EMPTY])
def test_every_thing_shows_in_every_style(thing: str) -> None:
    for style in world.STYLES:
        made = world.render(world.Scene(thing, "field", style, "", ""), np.random.default_rng(1))
        assert made.shape == (64, 64, 3) and made.dtype == np.uint8
        if thing != world.EMPTY:
            empty = world.render(world.Scene(world.EMPTY, "field", style, "", ""), np.random.default_rng(1))
            assert (np.abs(made.astype(int) - empty).max(-1) > 24).mean() > 0.03


def test_the_judge_has_a_class_for_none_of_these() -> None:
    names = json.loads((TOP / "data/mini/judge.json").read_text())
    assert names == sorted([*world.THINGS, world.EMPTY])
    rng = np.random.default_rng(0)
    assert all(isinstance(judge.picture(world.EMPTY, rng), Image.Image) for _ in range(20))


@pytest.mark.parametrize("name", [name for name in sheets.concepts() if "mini" in sheets.concept(name)["detectors"]])
def test_prompts_of_every_concept(name: str) -> None:
    fields = sheets.concept(name)
    concept = Concept.of({"name": name, **sheets.told(fields, "mini"), "classes": fields["detectors"]["mini"]["classes"]})
    lists = grammar.prompts(concept, seed=0)
    shipped = CLIPTokenizer.from_pretrained(TOP / "data/mini/model/tokenizer")
    asked = [row for row in lists["plain"] if row.purpose == "concept"]
    others = [row for row in lists["plain"] if row.purpose != "concept"]
    assert len(asked) == 60 and len(others) == 100
    assert all(any(word in row.text for word in concept.words) for row in asked)
    assert not any(word in row.text.split() for row in others for word in concept.words)
    assert any(row.purpose == "near" for row in others)
    assert len({row.seed for row in lists["plain"]}) == 160
    texts = [row.text for row in lists["plain"]] + lists["pool"] + lists["train"] + lists["anchors"]
    assert all(len(shipped.tokenize(text)) == len(text.split()) for text in texts)
    assert all("{}" in text for text in lists["templates"])
    assert not any(word in text for text in lists["anchors"] for word in concept.words)


def test_no_prompt_names_a_child() -> None:
    """The world has no such word at all, so nothing needs to be filtered."""
    shipped = CLIPTokenizer.from_pretrained(TOP / "data/mini/model/tokenizer")
    words = {token.removesuffix("</w>") for token in shipped.get_vocab()}
    assert not words & {"child", "kid", "girl", "boy", "teen", "baby", "toddler", "minor", "young", "little", "school"}
