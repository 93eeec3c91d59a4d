"""What is never asked: prompts about minors, in whatever spelling, and tokens that would make one of them."""

from __future__ import annotations

import json
import runpy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TOP, on_disk
from transformers import CLIPTokenizer

from palimpsest import edits, models, safety
from palimpsest.attacks import none
from palimpsest.data import Prompt, Prompts
from palimpsest.workflow import paths

WORDS = (
    "children's at sea", "childhood", "a kid", "two kiddos", "forkids", "youngsters", "some youths", "preschoolers", "kindergarten",
    "grandchildren", "puberty", "teeny", "babygirl", "crybaby", "a teenager", "pre-teen", "under-age", "under age", "under the age of 18",
    "minors", "a school girl", "high schooler", "little boys", "a young red-haired girl", "younger_girl", "#YoungGirl",
    "a girl in a school uniform",
)  # fmt: skip
AGED = (
    "a 12 year-old", "a 9yo", "14 y.o.", "17 yr old", "12yearold", "twelve year old", "sixteen-year-olds", "thirteen years of age",
    "a girl aged 14", "age 13", "age of twelve", "a six month old", "a girl, 14, in a field",
)  # fmt: skip
SPELT = ("ch\u200bild", "chi\u00adld", "\uff43\uff48\uff49\uff4c\uff44", "CHI\u0301LD", "young\u2010girl")
ORDINARY = (
    "a kidney", "a girlfriend", "two boys", "a woman aged 35", "a thirty-five-year-old woman", "aged 20 years", "a 45-year-old",
    "old age", "ten years of peace", "two years later", "a canteen between trees", "nineteenth century", "infantry in Babylon",
    "skid marks", "minor key", "a girl in 4K", "an art school", "young corn behind a wall", "thirteen candles", "a lesson at age 18",
    "14 candles", "an aged man",
)  # fmt: skip


@pytest.mark.parametrize("text", (*WORDS, *AGED, *SPELT))
def test_prompts_about_minors_are_dropped_for_inappropriate_concepts(concept: Any, text: str, capsys: pytest.CaptureFixture) -> None:
    nudity = replace(concept, kind="inappropriate")
    rows = Prompts([Prompt(text, 1), Prompt("a mannequin in a field, 30 years old", 2)])
    assert [row.seed for row in safety.kept(nudity, rows).rows] == [2]
    assert "2 prompts, 1 of them" in capsys.readouterr().err
    assert safety.kept(concept, rows).rows == rows.rows and not capsys.readouterr().err


@pytest.mark.parametrize("text", ORDINARY)
def test_other_prompts_stay(text: str) -> None:
    assert not safety.about_minors(text)


def test_no_list_and_no_word_of_the_embedded_model_is_lost(concept: Any) -> None:
    every = [line for file in (TOP / "data/prompts").glob("*.yaml") for line in file.read_text().splitlines()]
    assert len(every) > 5000 and not [line for line in every if safety.about_minors(line)]
    tokenizer = CLIPTokenizer.from_pretrained(TOP / "data/mini/model/tokenizer")
    assert safety.allowed(replace(concept, kind="inappropriate"), tokenizer).all()


BARRED = (  # of CLIP's 49,408 tokens
    "child</w>", "childs</w>", "childrens", "childre", "childhood", "grandchildren</w>", "kid", "kids</w>", "kidz</w>", "kiddo</w>",
    "kiddos</w>", "kidd</w>", "wizkid</w>", "forkids</w>", "babygirl</w>", "blackgirl", "agirl</w>", "girl</w>", "girly</w>", "aboy</w>",
    "boy</w>", "young</w>", "youngster</w>", "youngsters</w>", "youths</w>", "thelittle", "minor</w>", "daughter</w>", "preschool</w>",
    "school", "schoolers</w>", "kindergarten</w>", "puberty</w>", "teen", "teeny</w>", "thirteen</w>", "fourteen</w>", "fifteen</w>",
    "sixteen</w>", "seventeen</w>",
)  # fmt: skip
FREE = ("church</w>", "dog</w>", "skid</w>", "kidney</w>", "kidnap</w>", "small</w>", "between</w>", "infantry</w>")


def test_a_search_may_not_choose_words_for_minors(concept: Any) -> None:
    class Tokenizer:
        names = (*BARRED, *FREE)

        def __len__(self) -> int:
            return len(self.names)

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [self.names[n] for n in ids]

    allowed = safety.allowed(replace(concept, kind="inappropriate"), Tokenizer())
    assert [name for name, free in zip(Tokenizer.names, allowed.tolist(), strict=True) if free] == list(FREE)
    assert safety.allowed(concept, Tokenizer()).all()


PLAIN = [Prompt("nudity", 1), Prompt("a dog", 2, "other")]
CHILD = "a photo of a child in a field"


def asked(concept: Any, plain: list[Prompt], answer: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The file of an attack that answers so to the plain prompts, written by its script."""
    cell = ("nudity", "none", "mini", "0")
    Prompts(plain).save(source := Path(paths.prompts("nudity", "mini")), {})
    source.write_text(json.dumps(json.loads(source.read_text()) | {"texts": {}}))
    edits.Erasure("nothing").save(Path(paths.erasure(*cell)), {})
    on_disk(Path(pool := paths.pool("nudity", "mini")), plain, [torch.zeros(3, 8, 8)] * len(plain))
    monkeypatch.setattr(models, "load", lambda *_: None)
    monkeypatch.setattr(none, "attack", lambda *_, plain: Prompts([*plain.units().rows, *answer]))
    fields = {name: value for name, value in vars(concept).items() if name != "texts"} | {"name": "nudity", "kind": "inappropriate"}
    reads = {"attack": {"of": "none", "settings": {}}, "concept": fields, "base": {}}
    job = SimpleNamespace(
        **dict(zip(("concept", "method", "base", "seed"), cell, strict=True)), attack="none", pool=pool, reads=reads,
        record=lambda *_: {"command": "attack"}, scratch=lambda *_, **__: nullcontext(), cost=lambda *_: nullcontext(),
    )  # fmt: skip
    runpy.run_path(str(TOP / "scripts/attack.py"))["main"](job)
    return json.loads(Path(paths.attack(*cell, "none")).read_text())


@pytest.mark.parametrize(
    "plain, answer, record",
    [
        (PLAIN, [Prompt("x", 1, unit=0, stage=1)], {}),
        (PLAIN, [Prompt(CHILD, 1, unit=0, stage=1)], {"dropped": {"texts": 1}}),
        (PLAIN, [Prompt(CHILD, 5, unit=7, stage=n) for n in range(2)], {"dropped": {"texts": 2, "units": 1}}),
        ([*PLAIN, Prompt(CHILD, 3), Prompt(CHILD, 4, "other")], [Prompt(CHILD, 1, unit=0, stage=1)], {"dropped": {"texts": 3, "units": 1}}),
    ],
)
def test_an_attack_says_how_much_was_dropped(
    plain: list, answer: list, record: dict, concept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no word of it where nothing was; a unit counts where no text of it is left."""
    monkeypatch.chdir(tmp_path)
    found = asked(concept, plain, answer, monkeypatch)
    assert found["record"] == {"command": "attack", **record} and CHILD not in json.dumps(found)


def test_an_attack_of_which_nothing_may_be_asked_says_so_in_one_line(concept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^nudity: every one of 2 texts has a word for a minor, and none is asked; give others$"):
        asked(concept, PLAIN[1:], [Prompt(CHILD, 1, unit=0, stage=n) for n in range(2)], monkeypatch)
    with pytest.raises(ValueError, match="nudity: every one of 1 texts"):
        asked(concept, [Prompt(CHILD, 1)], [], monkeypatch)
