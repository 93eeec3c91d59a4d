"""Work in pieces: the same bytes for any number of parts and interruptions, and what was spent is counted once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palimpsest import data, pieces
from palimpsest.data import Prompt, Prompts
from palimpsest.optimise import descend
from palimpsest.resume import Part, resumable
from palimpsest.workflow import demands, params, stage

ROWS = [Prompt(f"a thing, number {n}", n) for n in range(11)]


class Killed(Exception):
    pass


def noise(row: Prompt) -> torch.Tensor:
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(row.seed)) * 2 - 1


def test_what_shows_the_concept_lasts_and_of_the_rest_the_first() -> None:
    rows = [data.Prompt("", n, purpose) for n, purpose in enumerate(("other", "concept", "near", "other", "concept"))]
    assert pieces.lasting(rows, None) == [0, 1, 2, 3, 4]
    assert pieces.lasting(rows, 2) == [0, 1, 2, 4] and pieces.lasting(rows, 0) == [1, 4]


class Drawing:
    """Draws pieces and remembers which; `breaks` says behind how many pictures it is killed."""

    def __init__(self, breaks: int = 10**6) -> None:
        self.drawn: list[int] = []
        self.left = breaks

    def __call__(self, piece: slice) -> Iterator[torch.Tensor]:
        for row in ROWS[piece]:
            self.left -= 1
            if self.left < 0:
                raise Killed
            self.drawn.append(row.seed)
            yield noise(row)


def draw(folder: Path, drawing: Drawing, part: Part | None = None) -> None:
    with resumable(folder / "work", part) as kept:
        pieces.pictures(folder / "out" / "manifest.json", ROWS, drawing, {"seed": 0}, kept=kept, batch=2, roles=["pool"] * len(ROWS))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "out").rglob("*")) if file.is_file()}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    draw(tmp_path / "whole", Drawing())
    return files(tmp_path / "whole")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_parts_gives_the_same_pictures(tmp_path: Path, undisturbed: dict[str, bytes], count: int) -> None:
    drawings = [Drawing() for _ in range(count)]
    for n, drawing in enumerate(drawings, 1):
        draw(tmp_path, drawing, Part(n, count))
        assert not (tmp_path / "out").exists(), "a part publishes nothing"
    last = Drawing()
    draw(tmp_path, last)
    assert last.drawn == [] and files(tmp_path) == undisturbed and len(undisturbed) == len(ROWS) + 1
    assert sorted(seed for drawing in drawings for seed in drawing.drawn) == list(range(len(ROWS))), "each once"


def test_a_killed_run_goes_on_with_the_piece_it_was_at(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    with pytest.raises(Killed):
        draw(tmp_path, Drawing(breaks=5))
    second = Drawing()
    draw(tmp_path, second)
    assert second.drawn == list(range(4, len(ROWS))) and files(tmp_path) == undisturbed


def test_a_part_that_died_is_made_by_whoever_puts_all_together(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    draw(tmp_path, Drawing(), Part(1, 2))
    with pytest.raises(Killed):
        draw(tmp_path, Drawing(breaks=1), Part(2, 2))
    last = Drawing()
    draw(tmp_path, last)
    assert last.drawn == [2, 3, 6, 7, 10] and files(tmp_path) == undisturbed


def test_earlier_pictures_are_replaced_whole(tmp_path: Path) -> None:
    stale = tmp_path / "out" / "images" / "00099.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another run")
    draw(tmp_path, Drawing())
    assert not stale.exists() and len(data.Images.load(tmp_path / "out" / "manifest.json")) == len(ROWS)


def word(row: Prompt, killed_at: int = -1) -> Prompts:
    """A small attack on one prompt: a word, learned in twelve steps."""
    vector = torch.zeros(1, 4, requires_grad=True)
    draws = torch.Generator().manual_seed(row.seed)

    def loss(step: int) -> torch.Tensor:
        if (row.seed, step) == (killed_at, 6):
            raise Killed
        time.sleep(0.002)
        return (vector - torch.randn(1, 4, generator=draws)).pow(2).mean()

    log = descend(loss, [vector], steps=12, lr=0.1, generator=draws, pause=0)
    return Prompts([row._replace(text=f"<word{row.seed}>")], {f"word{row.seed}": vector.detach()}, log)


def found(plain: Prompts, killed_at: int = -1) -> Prompts:
    return pieces.by_prompt(plain, 2, lambda some: pieces.together([word(row, killed_at) for row in some.rows]))


def saved(folder: Path, prompts: Prompts) -> tuple[bytes, bytes]:
    prompts.save(folder / "found.json", {})
    return (folder / "found.json").read_bytes(), (folder / "found.safetensors").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_attack_by_prompt_in_parts(tmp_path: Path, count: int) -> None:
    """The same prompts, words and log as in one go; a part ends its block, and the last one computes nothing."""
    expected = saved(tmp_path, found(Prompts(ROWS)))
    for n in range(1, count + 1):
        with resumable(tmp_path / "work", Part(n, count)):
            found(Prompts(ROWS))
            pytest.fail("a part goes no further")
    began = time.perf_counter()
    with resumable(tmp_path / "work") as kept:
        again = found(Prompts(ROWS))
    assert saved(tmp_path, again) == expected and len(again.log) == 12 * len(ROWS)
    if count:
        assert kept.seconds > len(ROWS) * 12 * 0.002 > time.perf_counter() - began, "what the parts spent is counted"
        assert kept.peak_memory_mb > 50


def test_an_attack_killed_inside_a_prompt_goes_on_there(tmp_path: Path) -> None:
    expected = saved(tmp_path, found(Prompts(ROWS)))
    with pytest.raises(Killed), resumable(tmp_path / "work"):
        found(Prompts(ROWS), killed_at=5)
    with resumable(tmp_path / "work") as kept:
        again = found(Prompts(ROWS))
    assert saved(tmp_path, again) == expected
    assert kept.seconds >= (4 * 12 + 12 + 6) * 0.002, "the prompts before it, and its own steps"


def test_two_words_of_one_name() -> None:
    with pytest.raises(ValueError, match="<word3>"):
        pieces.together([Prompts([], {"word3": torch.zeros(1)}), Prompts([], {"word3": torch.ones(1)})])


def test_what_a_part_may_be() -> None:
    assert stage.part_of("2/5") == Part(2, 5) and stage.part_of(None) is None
    for text in ("0/5", "6/5", "2", "a/b"):
        with pytest.raises(ValueError, match="write K/N"):
            stage.part_of(text)


def test_what_may_be_made_in_parts() -> None:
    settings = params.load()
    for name in ("generate", "gen_image_pool", "sdedit_pairs"):
        params.check({**settings, "resources": {**settings["resources"], name: {"parts": 4}}})
    for name in ("erase", "erase_dm2", "attack", "attack_cce", "report"):
        with pytest.raises(params.ParamsError, match=f"{name} is made whole"):
            params.check({**settings, "resources": {**settings["resources"], name: {"parts": 4}}})
    with pytest.raises(params.ParamsError, match="write 1 or more"):
        params.check({**settings, "resources": {**settings["resources"], "generate": {"parts": 0}}})


def test_a_rule_may_ask_for_more_than_its_script() -> None:
    settings = params.load()
    settings["resources"] |= {"attack": {"runtime": 30}, "attack_cce": {"runtime": 600}}
    params.check(settings)
    assert demands.asks(settings, "attack", {"attack": "cce"})["runtime"] == 600
    assert demands.asks(settings, "attack", {"attack": "none"})["runtime"] == 30


def test_pictures_of_a_role_are_listed_by_what_the_judge_sees(tmp_path: Path) -> None:
    """The others first and as they were; files keep their names, and each entry its own picture."""
    roles = ["pool"] * 4 + ["captioned"] * 7

    def judge(images: data.Images) -> tuple[torch.Tensor, torch.Tensor]:
        values = images.pixels().mean((1, 2, 3))
        return values, values > 0

    with resumable(tmp_path / "work") as kept:
        order = pieces.strongest("captioned", judge)
        pieces.pictures(tmp_path / "manifest.json", ROWS, Drawing(), {}, kept=kept, batch=4, roles=roles, order=order)
    images = data.Images.load(tmp_path / "manifest.json")
    assert [row.prompt.seed for row in images.rows[:4]] == [0, 1, 2, 3] and {row.role for row in images.rows[4:]} == {"captioned"}
    shown = judge(images.only("captioned"))[0]
    assert (shown.diff() <= 0).all() and len(shown) == 7
    for n, row in enumerate(images.rows):
        torch.testing.assert_close(images.pixels([n])[0], noise(row.prompt), atol=1 / 127, rtol=0)


def test_pairs_are_lists_of_their_own_where_there_are_some(concept: data.Concept) -> None:
    lists = {"pool": ["a church"], "anchors": ["a tree"]}
    assert replace(concept, texts=lists).pairs == [("a church", "a tree")]
    own = {**lists, "pairs": ["a church at sea", "churches"], "without": ["a boat at sea", "trees"]}
    assert replace(concept, texts=own).pairs == [("a church at sea", "a boat at sea"), ("churches", "trees")]
    assert replace(concept, texts={}).pairs == []
