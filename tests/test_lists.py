"""What the workflow makes of lists, whoever wrote them: seeds, purposes, I2P and COCO in the place of a list's own, words of a text."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest import lists, safety
from palimpsest.data import Concept, Prompt
from palimpsest.prompts.grammar import EVALUATION, prompts

TEXTS = ("captions", "pool", "train", "templates", "anchors", "negative", "retain", "scenes", "pairs", "without")
CHURCH = lists.Lists(
    captions=["A church on a hill", "A church by the sea", "An old church"],
    phrases=["the church bell", "church and state"],
    scenes=["A church in a village"],
    near={"castle": ["A castle on a rock", "A ruined castle"], "house": ["A house"]},
    pairs=[("A church at night", "A mill at night"), ("A red church", "A red barn")],
    others=["A dog", "A bus", "A kid with a ball", "Two cups"],
)
NUDE = CHURCH._replace(
    captions=["A nude in marble", "A nude teenager", "A nude by the sea"],
    phrases=["a study of nudity", "nudity of a child"],
    scenes=["A nude on a fountain"],
    near={"doll": ["A doll in a coat"]},
    pairs=[("A nude in marble", "A horse in marble"), ("A nude, young girl", "A vase")],
)


@pytest.fixture(scope="module")
def nudity(concept: Concept) -> Concept:
    said = {"name": "nudity", "kind": "inappropriate", "words": ("nudity",), "adjective": "nude", "classes": (), "near": ("doll",)}
    return replace(concept, **said, sensitive=True)


def made(concept: Concept, said: lists.Lists, **settings: Any) -> dict[str, Any]:
    return lists.assembled(concept, said, **{"images": 2, "other_prompts": 2, "i2p": "", "coco": "", **settings})


def by(rows: list[Prompt], purpose: str) -> list[Prompt]:
    return [row for row in rows if row.purpose == purpose]


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


def test_the_lists_as_the_workflow_takes_them(concept: Concept) -> None:
    found = made(concept, CHURCH, other_prompts=3)
    assert set(found) == {"plain", *TEXTS} and set(TEXTS) >= set(prompts(concept, seed=0)) - {"plain"}
    asked, others, near = (by(found["plain"], purpose) for purpose in ("concept", "other", "near"))
    assert [row.text for row in asked] == [*CHURCH.captions] * 2 and {row.shows for row in asked} == {"church"}
    assert [row.text for row in others] == CHURCH.others[:3] and found["retain"] == CHURCH.others[3:]
    assert [(row.text, row.shows) for row in near] == [
        ("A castle on a rock", "castle"),
        ("A ruined castle", "castle"),
        ("A house", "house"),
    ]
    assert [row.seed for row in found["plain"]] == list(range(EVALUATION, EVALUATION + 6 + 3 + 3))
    assert found["pool"] == ["a church photo"] and found["anchors"] == ["a photo of a tree"] and found["negative"] == ["church"]
    assert (found["captions"], found["train"], found["scenes"]) == (CHURCH.captions, CHURCH.phrases, CHURCH.scenes)
    assert list(zip(found["pairs"], found["without"], strict=True)) == CHURCH.pairs


def test_of_a_style_the_style_is_named_and_nothing_that_it_shows(concept: Concept) -> None:
    style = replace(concept, kind="style", words=("crayon",), classes=("crayon",))
    rows = made(style, CHURCH._replace(near={"pencil": ["A pencil sketch"]}))["plain"]
    assert {(row.shows, row.style) for row in by(rows, "concept")} == {("", "crayon")}
    assert {(row.shows, row.style) for row in by(rows, "near")} == {("pencil", "pencil")}


def test_no_word_for_a_minor_in_any_list_of_a_guarded_concept(
    concept: Concept, nudity: Concept, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(nudity, NUDE)
    texts = [row.text for row in found["plain"]] + [text for name in TEXTS for text in found[name]]
    assert not any(map(safety.about_minors, texts)) and found["pool"] == ["a nude photo"]
    assert found["captions"] == ["A nude in marble", "A nude by the sea"] and found["train"] == ["a study of nudity"]
    assert found["pairs"] == ["A nude in marble"] and found["without"] == ["A horse in marble"] and found["retain"] == ["Two cups"]
    assert "3 prompts, 2 of them without a word for a minor" in capsys.readouterr().err
    assert "A kid with a ball" in made(concept, CHURCH)["retain"]


def test_prompts_of_i2p_take_the_place_of_captions(concept: Concept, nudity: Concept, i2p: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of the category, each with its own seed and j; of an object, nothing changes."""
    found = made(nudity, NUDE, images=3, i2p=i2p)
    asked = [(row.text, row.seed) for row in by(found["plain"], "concept")]
    assert asked == [(text, seed + j) for j in range(3) for text, seed in (("a nude, by nobody", 100), ("line one\nline two", 300))]
    assert found["captions"] == ["a nude, by nobody", "line one\nline two"]
    assert "3 prompts, 2 of them without a word for a minor" in capsys.readouterr().err
    for name, seeds in (("violence", [200, 300]), ("self_harm", [500]), ("illegal_activity", [500]), ("hate", [200])):
        assert [row.seed for row in lists.unsafe(replace(nudity, name=name), i2p)] == seeds
    assert made(concept, CHURCH, i2p=i2p) == made(concept, CHURCH)


def test_captions_of_coco_take_the_place_of_others(concept: Concept, coco: str) -> None:
    found = made(concept, CHURCH, other_prompts=4, coco=coco)
    assert [(row.text, row.seed) for row in by(found["plain"], "other")] == [(f"A thing, number {n}", 200_000 + n) for n in range(4)]
    assert found["retain"] == CHURCH.others
    with pytest.raises(ValueError, match=r"other_prompts: 7 are asked for, and .*coco.csv has 6; lower it"):
        made(concept, CHURCH, other_prompts=7, coco=coco)


def test_what_is_not_there_is_one_line(concept: Concept, nudity: Concept, tmp_path: Path) -> None:
    def said(concept: Concept = nudity, **settings: Any) -> str:
        with pytest.raises((FileNotFoundError, ValueError)) as error:
            made(concept, CHURCH, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert said(concept, other_prompts=5).startswith("prompts: other_prompts: 5 are asked for, and the list of others has 4; lower it")
    assert "nowhere.csv is not there; `snakemake --cores 1 nowhere.csv` fetches it" in said(i2p="nowhere.csv")
    other = write(tmp_path / "other.csv", [{"prompt": "a", "evaluation_seed": 1}])
    assert f"{other} has no column 'categories'; it has: prompt, evaluation_seed" in said(i2p=other)
    seedless = write(tmp_path / "seedless.csv", [{"prompt": "a", "categories": "sexual"}])
    assert 'has no column of seeds, "sd_seed" or "evaluation_seed"' in said(i2p=seedless)
    foreign = write(tmp_path / "foreign.csv", [{"prompt": "a", "categories": "hate", "evaluation_seed": 1}])
    assert "has no category for 'nudity'; it has: hate; leave i2p out" in said(i2p=foreign)
    lettered = write(tmp_path / "lettered.csv", [{"caption": "a", "seed": "7.0"}, {"caption": "b", "seed": "x"}])
    assert f"coco: {lettered}, row 3, has 'x' for a seed; write a whole number below 2**63 there" in said(coco=lettered)
    minus = write(
        tmp_path / "minus.csv", [{"prompt": n, "categories": parts, "sd_seed": -n} for n, parts in enumerate(("sexual", "hate", "sexual"))]
    )
    assert f"i2p: {minus}, row 4, has '-2' for a seed" in said(i2p=minus)
    (tmp_path / "bare.csv").write_text("prompt,categories,sd_seed\n")
    assert f"i2p: {tmp_path / 'bare.csv'} has no rows; write some" in said(i2p=str(tmp_path / "bare.csv"))
    blank = write(tmp_path / "blank.csv", [{"caption": "a", " seed": "7"}])
    assert f"coco: {blank}, row 1, names a column ' seed'; take out the blanks around it" in said(coco=blank)
    for content in (b'caption,seed\n"' + b"a" * 200_000, "caption,seed\ncafé,1".encode("latin-1")):
        (tmp_path / "damaged.csv").write_bytes(content)
        assert "damaged.csv is no CSV in UTF-8 (" in said(coco=str(tmp_path / "damaged.csv"))


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "marked.csv").write_text("caption,seed\na,1\n", encoding="utf-8-sig")
    assert lists.table("coco", str(tmp_path / "marked.csv"), "caption") == [{"caption": "a", "seed": "1"}]


def test_what_a_text_says() -> None:
    assert lists.says("Two CHURCHES", ["church"]) and not lists.says("a churchyard", ["church"])
    assert lists.hints("a churchyard", ["church"]) and not lists.hints("an unchurched town", ["church"])
    assert lists.length("it's 12... a test") == 8


def test_what_names_a_concept(concept: Concept, nudity: Concept) -> None:
    assert lists.names(nudity) == ("nudity", "nude") and lists.names(concept) == ("church",)
