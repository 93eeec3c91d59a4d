"""Prompts that need no model: the committed lists and the templates, I2P and COCO in their place, and what the workflow makes of them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TOP

from palimpsest import asking, safety
from palimpsest.data import Concept, Prompt
from palimpsest.prompts import frozen, grammar, template
from palimpsest.workflow import params

LISTS = ("captions", "pool", "train", "templates", "anchors", "negative", "retain", "scenes", "pairs", "without")
SAID: dict[str, Any] = {
    "by": "nobody in particular",
    "captions": ["A church on a hill", "A church by the sea", "An old church"],
    "phrases": ["the church bell", "church and state"],
    "scenes": ["A church in a village"],
    "near": {"castle": ["A castle on a rock", "A ruined castle"], "house": ["A house"]},
    "pairs": [["A church at night", "A mill at night"], ["A red church", "A red barn"]],
}
NUDE: dict[str, Any] = {
    **SAID,
    "captions": ["A nude in marble", "A nude teenager", "A nude by the sea"],
    "phrases": ["a study of nudity", "nudity of a child"],
    "near": {"doll": ["A doll in a coat"]},
    "pairs": [["A nude in marble", "A horse in marble"], ["A nude, young girl", "A vase"]],
}
OTHERS = {"by": "somebody else", "captions": ["A dog", "A bus", "A kid with a ball", "Two cups"]}


def known(name: str) -> Concept:
    """A concept of data/concepts as real bases judge it."""
    fields = params.read_concept(name)
    return Concept.of(
        {"name": name, **{k: v for k, v in fields.items() if k != "detectors"}, "classes": fields["detectors"]["papers"]["classes"]}
    )


@pytest.fixture(autouse=True)
def top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, said in (("church", SAID), ("nudity", NUDE), ("others", OTHERS)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(said))
    return tmp_path


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


@pytest.fixture
def i2p(tmp_path: Path) -> str:
    said = [
        ("a nude, by nobody", "sexual", 100), ("a crowd", "hate, violence", 200), ("line one\nline two", "violence,  sexual ", 300),
        ("a teen on a beach", "sexual", 400), ("a letter", "self-harm, illegal activity", 500),
    ]  # fmt: skip
    return write(tmp_path / "i2p.csv", [{"prompt": text, "categories": parts, "sd_seed": seed} for text, parts, seed in said])


@pytest.fixture
def coco(tmp_path: Path) -> str:
    rows = [{"image_id": n, "caption_id": 9 * n, "caption": f"A thing, number {n}", "seed": 200_000 + n} for n in range(6)]
    return write(tmp_path / "coco.csv", rows)


def by(rows: list[Prompt], purpose: str) -> list[Prompt]:
    return [row for row in rows if row.purpose == purpose]


def test_the_lists_as_the_workflow_takes_them(folder: Path) -> None:
    made = frozen.prompts(known("church"), seed=0, folder=str(folder), images=2, other_prompts=3)
    assert set(made) == {"plain", *LISTS, "record"} and set(LISTS) >= set(grammar.prompts(known("church"), seed=0)) - {"plain"}
    asked, others, near = (by(made["plain"], purpose) for purpose in ("concept", "other", "near"))
    assert [row.text for row in asked] == SAID["captions"] * 2 and {row.shows for row in asked} == {"church"}
    assert [row.text for row in others] == OTHERS["captions"][:3] and made["retain"] == OTHERS["captions"][3:]
    assert [(row.text, row.shows) for row in near] == [
        ("A castle on a rock", "castle"),
        ("A ruined castle", "castle"),
        ("A house", "house"),
    ]
    assert [row.seed for row in made["plain"]] == list(range(grammar.EVALUATION, grammar.EVALUATION + 6 + 3 + 3))
    assert made["pool"] == ["a church photo"] and made["anchors"] == ["a photo of a tree"] and made["negative"] == ["church"]
    assert (made["captions"], made["train"], made["scenes"]) == (SAID["captions"], SAID["phrases"], SAID["scenes"])
    assert [list(pair) for pair in zip(made["pairs"], made["without"], strict=True)] == SAID["pairs"]
    assert made["record"] == {"by": SAID["by"], "others_by": OTHERS["by"]}
    assert made == frozen.prompts(known("church"), seed=7, folder=str(folder), images=2, other_prompts=3)


def test_no_word_for_a_minor_in_any_list_of_a_guarded_concept(folder: Path, capsys: pytest.CaptureFixture) -> None:
    concept = known("nudity")
    made = frozen.prompts(concept, seed=0, folder=str(folder), images=2, other_prompts=2)
    texts = [row.text for row in made["plain"]] + [text for name in LISTS for text in made[name]]
    assert not any(map(safety.about_minors, texts)) and made["pool"] == ["a nude photo"]
    assert made["captions"] == ["A nude in marble", "A nude by the sea"] and made["train"] == ["a study of nudity"]
    assert made["pairs"] == ["A nude in marble"] and made["without"] == ["A horse in marble"] and made["retain"] == ["Two cups"]
    assert "3 prompts, 2 of them without a word for a minor" in capsys.readouterr().err
    assert "A kid with a ball" in frozen.prompts(known("church"), seed=0, folder=str(folder), other_prompts=2)["retain"]


def test_prompts_of_i2p_take_the_place_of_captions(folder: Path, i2p: str, capsys: pytest.CaptureFixture) -> None:
    """The rows of the category, each with its own seed and j; of an object, nothing changes."""
    made = frozen.prompts(known("nudity"), seed=0, folder=str(folder), images=3, other_prompts=2, i2p=i2p)
    asked = [(row.text, row.seed) for row in by(made["plain"], "concept")]
    assert asked == [(text, seed + j) for j in range(3) for text, seed in (("a nude, by nobody", 100), ("line one\nline two", 300))]
    assert made["captions"] == ["a nude, by nobody", "line one\nline two"]
    assert "3 prompts, 2 of them without a word for a minor" in capsys.readouterr().err
    for name, seeds in (("violence", [200, 300]), ("self_harm", [500]), ("illegal_activity", [500]), ("hate", [200])):
        assert [row.seed for row in asking.unsafe(known(name), i2p)] == seeds
    plain = frozen.prompts(known("church"), seed=0, folder=str(folder), other_prompts=2)
    assert frozen.prompts(known("church"), seed=0, folder=str(folder), other_prompts=2, i2p=i2p) == plain


def test_captions_of_coco_take_the_place_of_others(folder: Path, coco: str) -> None:
    made = frozen.prompts(known("church"), seed=0, folder=str(folder), other_prompts=4, coco=coco)
    assert [(row.text, row.seed) for row in by(made["plain"], "other")] == [(f"A thing, number {n}", 200_000 + n) for n in range(4)]
    assert made["retain"] == OTHERS["captions"]
    with pytest.raises(ValueError, match=r"other_prompts: 7 are asked for, and .*coco.csv has 6; lower it"):
        frozen.prompts(known("church"), seed=0, folder=str(folder), other_prompts=7, coco=coco)


def test_what_is_not_there_is_one_line(folder: Path, tmp_path: Path) -> None:
    def made(name: str = "church", **settings: Any) -> str:
        with pytest.raises((FileNotFoundError, ValueError)) as error:
            frozen.prompts(known(name), seed=0, **{"folder": str(folder), "other_prompts": 2, **settings})
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "crayon.yaml is not there; write it after" in made("crayon") and "`of: template`" in made("crayon")
    assert made(other_prompts=5).startswith("prompts: other_prompts: 5 are asked for, and the list of others has 4; lower it")
    assert "nowhere.csv is not there; `snakemake --cores 1 nowhere.csv` fetches it" in made("nudity", i2p="nowhere.csv")
    other = write(tmp_path / "other.csv", [{"prompt": "a", "evaluation_seed": 1}])
    assert f"{other} has no column 'categories'; it has: prompt, evaluation_seed" in made("nudity", i2p=other)
    seedless = write(tmp_path / "seedless.csv", [{"prompt": "a", "categories": "sexual"}])
    assert 'has no column of seeds, "sd_seed" or "evaluation_seed"' in made("nudity", i2p=seedless)
    foreign = write(tmp_path / "foreign.csv", [{"prompt": "a", "categories": "hate", "evaluation_seed": 1}])
    assert "has no category for 'nudity'; it has: hate; leave i2p out" in made("nudity", i2p=foreign)
    lettered = write(tmp_path / "lettered.csv", [{"caption": "a", "seed": "7.0"}, {"caption": "b", "seed": "x"}])
    assert f"coco: {lettered} has 'x' for a seed; write a whole number there" in made(coco=lettered)
    (folder / "church.yaml").write_text("captions: [a\nb: {")
    assert "church.yaml is no YAML: " in made()
    (folder / "church.yaml").write_text(yaml.safe_dump({**SAID, "near": {}}))
    assert "church.yaml says nothing under 'near'" in made()
    (folder / "church.yaml").write_text(yaml.safe_dump({**SAID, "pairs": [["a church", "a barn"], "a church | a barn"]}))
    assert "number 2 of pairs is no pair" in made()


@pytest.mark.parametrize("name", sorted(file.stem for file in (TOP / "data/prompts").glob("*.yaml") if file.stem != frozen.OTHERS))
def test_the_committed_lists_are_whole(name: str) -> None:
    made = frozen.prompts(known(name), seed=0, folder="data/prompts")
    assert len(by(made["plain"], "concept")) == 1000 and len(made["train"]) == 200 and len(made["scenes"]) >= 60
    assert len(by(made["plain"], "other")) == 100 and len(made["retain"]) == 200 and len(by(made["plain"], "near")) >= 24
    assert len({row.seed for row in made["plain"]}) == len(made["plain"]) and len(made["pairs"]) == len(made["without"]) >= 50
    assert all(text and isinstance(text, str) for key in LISTS for text in made[key])


@pytest.mark.parametrize("name", ["church", "van_gogh", "nudity"])
def test_templates_say_any_word(name: str) -> None:
    concept = known(name)
    made = template.prompts(concept, seed=0)
    assert set(made) == {"plain", *LISTS} and made == template.prompts(concept, seed=0) != template.prompts(concept, seed=1)
    assert (len(made["captions"]), len(made["train"]), len(made["scenes"]), len(made["pairs"])) == (100, 200, 60, 50)
    told = [*made["captions"], *made["train"], *made["scenes"], *made["pairs"]]
    assert len(set(told)) == 410 and all(asking.says(text, [concept.word]) for text in told)
    rest = [row.text for row in made["plain"] if row.purpose != "concept"] + made["without"] + made["retain"]
    assert not any(asking.hints(text, asking.names(concept)) for text in rest) and len(made["retain"]) == 200
    assert all(asking.says(row.text, [row.shows]) for row in by(made["plain"], "near"))
    assert max(map(asking.length, [*told, *rest])) <= 40
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
    for name in params.concepts():
        made = template.prompts(known(name), seed=0, captions=1, phrases=1, scenes=1, pairs=2)
        assert len(made["pool"]) == len(made["anchors"]) and len(made["pairs"]) == len(made["without"]) == 2
        concept = replace(known(name), texts=made)
        assert made["pool"] == [f"a {concept.adjective} photo"] and concept.anchor in made["anchors"][0]
        assert concept.pairs == list(zip(made["pairs"], made["without"], strict=True))
