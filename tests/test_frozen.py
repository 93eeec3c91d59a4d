"""Prompts that need no model: lists of a folder, the committed ones first of all, and templates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TOP
from test_lists import TEXTS, by, write

from palimpsest.data import Concept
from palimpsest.lists import Lists, assembled, hints, length, names, says
from palimpsest.prompts import frozen, template
from palimpsest.workflow import sheets

SAID: dict[str, Any] = {
    "by": "nobody in particular",
    "captions": ["A church on a hill", "A church by the sea", "An old church"],
    "phrases": ["the church bell", "church and state"],
    "scenes": ["A church in a village"],
    "near": {"castle": ["A castle on a rock", "A ruined castle"], "house": ["A house"]},
    "pairs": [["A church at night", "A mill at night"], ["A red church", "A red barn"]],
}
OTHERS = {"by": "somebody else", "captions": ["A dog", "A bus", "A kid with a ball", "Two cups"]}


def known(name: str) -> Concept:
    """A concept of data/concepts as real bases judge it."""
    fields = sheets.concept(name)
    return Concept.of({"name": name, **sheets.told(fields, "papers"), "classes": fields["detectors"]["papers"]["classes"]})


@pytest.fixture(autouse=True)
def top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, said in (("church", SAID), ("others", OTHERS)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(said))
    return tmp_path


def test_the_lists_of_a_folder(folder: Path) -> None:
    """Whole and in their order, whatever the seed, with the names of those who wrote them; I2P and COCO as they are asked for."""
    coco = write(folder / "coco.csv", [{"caption": "A thing", "seed": 7}])
    i2p = write(folder / "i2p.csv", [{"prompt": "a quarrel", "categories": "violence", "sd_seed": 9}])
    (folder / "violence.yaml").write_text(yaml.safe_dump(SAID))
    said = Lists(**{key: SAID[key] for key in frozen.LISTS}, others=OTHERS["captions"])
    record = {"by": SAID["by"], "others_by": OTHERS["by"]}
    for name, settings in (
        ("church", {"images": 2, "other_prompts": 3, "i2p": "", "coco": ""}),
        ("violence", {"images": 1, "other_prompts": 1, "i2p": i2p, "coco": coco}),
    ):
        found = frozen.prompts(known(name), seed=0, folder=str(folder), **settings)
        assert found == {**assembled(known(name), said, **settings), "record": record}
        assert found == frozen.prompts(known(name), seed=7, folder=str(folder), **settings)
        assert found["train"] == SAID["phrases"]
    assert found["captions"] == ["a quarrel"] and found["plain"][1].text == "A thing"


def test_what_is_not_there_is_one_line(folder: Path) -> None:
    def made(name: str = "church") -> str:
        with pytest.raises((FileNotFoundError, ValueError)) as error:
            frozen.prompts(known(name), seed=0, folder=str(folder), other_prompts=2)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "crayon.yaml is not there; write it after" in made("crayon") and "`of: template`" in made("crayon")
    (folder / "church.yaml").write_text("captions: [a\nb: {")
    assert "church.yaml is no YAML in UTF-8: " in made()
    (folder / "church.yaml").write_bytes("captions: [Église]".encode("latin-1"))
    assert "church.yaml is no YAML in UTF-8: " in made()
    (folder / "church.yaml").write_text(yaml.safe_dump({**SAID, "near": {}}))
    assert "church.yaml says nothing under 'near'" in made()
    (folder / "church.yaml").write_text(yaml.safe_dump({**SAID, "pairs": [["a church", "a barn"], "a church | a barn"]}))
    assert "number 2 of pairs is no pair" in made()
    for said, complaint in (
        ({"near": ["A castle"]}, "near is no mapping; write"),
        ({"near": {"castle": "A castle"}}, "near.castle is no list of texts; write"),
        ({"captions": "a church"}, "captions is no list of texts; write"),
        ({"scenes": ["a church", True]}, "scenes is no list of texts; write"),
        ({"pairs": "a church"}, "number 1 of pairs is no pair"),
    ):
        (folder / "church.yaml").write_text(yaml.safe_dump({**SAID, **said}))
        assert f"church.yaml: {complaint}" in made()


@pytest.mark.parametrize("name", sorted(file.stem for file in (TOP / "data/prompts").glob("*.yaml") if file.stem != frozen.OTHERS))
def test_the_committed_lists_are_whole(name: str) -> None:
    made = frozen.prompts(known(name), seed=0, folder="data/prompts")
    assert len(by(made["plain"], "concept")) == 1000 and len(made["train"]) == 200 and len(made["scenes"]) >= 60
    assert len(by(made["plain"], "other")) == 100 and len(made["retain"]) == 200 and len(by(made["plain"], "near")) >= 24
    assert len({row.seed for row in made["plain"]}) == len(made["plain"]) and len(made["pairs"]) == len(made["without"]) >= 50
    assert all(text and isinstance(text, str) for key in TEXTS for text in made[key])


@pytest.mark.parametrize("name", ["church", "van_gogh", "nudity"])
def test_templates_say_any_word(name: str) -> None:
    concept = known(name)
    made = template.prompts(concept, seed=0)
    assert set(made) == {"plain", *TEXTS} and made == template.prompts(concept, seed=0) != template.prompts(concept, seed=1)
    assert (len(made["captions"]), len(made["train"]), len(made["scenes"]), len(made["pairs"])) == (100, 200, 60, 50)
    told = [*made["captions"], *made["train"], *made["scenes"], *made["pairs"]]
    assert len(set(told)) == 410 and all(says(text, [concept.word]) for text in told)
    rest = [row.text for row in made["plain"] if row.purpose != "concept"] + made["without"] + made["retain"]
    assert not any(hints(text, names(concept)) for text in rest) and len(made["retain"]) == 200
    assert all(says(row.text, [row.shows]) for row in by(made["plain"], "near"))
    assert max(map(length, [*told, *rest])) <= 40
    with pytest.raises(ValueError, match=r"captions, phrases, scenes and pairs are \d+, and there are \d+ sentences; lower one"):
        template.prompts(concept, seed=0, phrases=5000)


def test_a_template_reads_as_a_sentence() -> None:
    assert template.about("church", "object")[0] == "a photo of a church on a hill, seen from afar"
    assert template.about("umbrella", "object")[0] == "a photo of an umbrella on a hill, seen from afar"
    assert template.about("nudity", "inappropriate")[0] == "a photo of nudity on a hill, seen from afar"
    assert template.about("van gogh", "style")[0] == "a dog on a hill, seen from afar, in the style of van gogh"
    made = template.prompts(known("van_gogh"), seed=0, pairs=3)
    assert made["pairs"] == [f"{text}, in the style of van gogh" for text in made["without"]]
    assert {row.style for row in by(made["plain"], "concept")} == {"van gogh"} and not any(
        row.shows for row in by(made["plain"], "concept")
    )


def test_pool_and_anchors_go_together() -> None:
    """sdedit_pairs redraws a picture of the pool from the anchor of the same number."""
    for name in sheets.concepts():
        made = template.prompts(known(name), seed=0, captions=1, phrases=1, scenes=1, pairs=2)
        assert len(made["pool"]) == len(made["anchors"]) and len(made["pairs"]) == len(made["without"]) == 2
        concept = replace(known(name), texts=made)
        assert made["pool"] == [f"a {concept.adjective} photo"] and concept.anchor in made["anchors"][0]
        assert concept.pairs == list(zip(made["pairs"], made["without"], strict=True))
