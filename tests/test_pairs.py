"""Pairs: what a judge does not see in is left out, redrawing ends at the first clean try, and the manifest says how to draw each again."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import MINI, TOP, on_disk
from torch import Generator, Tensor

from palimpsest import data, diffusion, judge, pairs, resume
from palimpsest.data import Images, Prompt
from palimpsest.pairs import Try
from palimpsest.resume import Part, resumable
from palimpsest.types import Model

ROWS = [Prompt(f"a thing, number {n}", 7 * n + 4) for n in range(11)]
HOW: dict[str, Any] = {"word": "church", "strength": 0.7, "steps": 4, "guidance": 4.0}
BRIGHT = 0.5  # what the judge of these tests sees


class Killed(Exception):
    pass


def bright(images: Images) -> tuple[Tensor, Tensor]:
    """A judge: the mean of a picture, in [0, 1]."""
    value = images.pixels().flatten(1).mean(1) / 2 + 0.5
    return value, value > BRIGHT


def noise(wanted: Try) -> Tensor:
    """A picture that is bright in six cases of ten, by its noise seed alone."""
    draws = Generator().manual_seed(pairs.noise_seed(ROWS[wanted.row].seed, wanted.number))
    level = torch.rand(1, generator=draws) - 0.4
    return (torch.rand(3, 8, 8, generator=draws) * 0.2 - 0.1 + level).clamp(-1, 1)


class Drawing:
    """Draws tries and remembers each batch; `breaks` says behind how many batches it is killed."""

    def __init__(self, breaks: int = 10**6) -> None:
        self.batches: list[list[Try]] = []
        self.left = breaks

    def __call__(self, wanted: Sequence[Try]) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Killed
        self.batches.append(list(wanted))
        return torch.stack([noise(one) for one in wanted])


def gated(folder: Path, drawing: Drawing, part: Part | None = None, batch: int = 4, tries: int = 3) -> list[dict[str, Any]]:
    with resumable(folder / "work", part) as kept:
        pairs.gated(
            folder / "out" / "manifest.json", ROWS, drawing, {"seed": 0},
            kept=kept, batch=batch, judge=bright, tries=tries, before=[0.9] * len(ROWS),
        )  # fmt: skip
    return [] if part else json.loads((folder / "out" / "manifest.json").read_text())["pictures"]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "out").rglob("*")) if file.is_file()}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    gated(tmp_path / "whole", Drawing())
    return files(tmp_path / "whole")


def expected(row: int, tries: int) -> tuple[int, bool]:
    """The number of the try that is to be kept and whether it is clean, one try after another."""
    for number in range(1, tries + 1):
        rounded = data.to_bytes(noise(Try(row, number))).float() / 255
        if rounded.mean() <= BRIGHT:
            return number, True
    return tries, False


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_the_first_clean_try_is_kept_or_the_last_one_rejected(tmp_path: Path, batch: int) -> None:
    drawing = Drawing()
    made = gated(tmp_path, drawing, batch=batch)
    kept = [(row["redrawn"]["try"], row["role"] == "clean") for row in made]
    assert kept == [expected(n, 3) for n in range(len(ROWS))]
    assert {row["role"] for row in made} == {"clean", "rejected"} and {number for number, clean in kept if clean} == {1, 2, 3}
    assert all(len(wanted) == batch for wanted in drawing.batches), "a row's bits do not depend on how many stand beside it"
    assert all(number <= 3 for wanted in drawing.batches for _, number in wanted)


def test_room_in_a_batch_holds_further_tries(tmp_path: Path) -> None:
    """With room for three tries of every row, one batch does; one row at a time, no try is drawn behind a clean one."""
    once, singly = Drawing(), Drawing()
    assert gated(tmp_path / "a", once, batch=33) == gated(tmp_path / "b", singly, batch=1)
    assert len(once.batches) == 1 and len(singly.batches) == sum(expected(n, 3)[0] for n in range(len(ROWS)))


def test_the_manifest_says_what_the_judge_saw(tmp_path: Path) -> None:
    made = gated(tmp_path, Drawing())
    images = Images.load(tmp_path / "out" / "manifest.json")
    values, seen = bright(images)
    for row, about, value, bad in zip(ROWS, made, values, seen, strict=True):
        assert Prompt(**about["prompt"]) == row and about["role"] == ("rejected" if bad else "clean")
        said = about["redrawn"]
        assert said["value"] == pytest.approx(value.item(), abs=1e-6) and said["pool_value"] == 0.9
        assert said["noise_seed"] == row.seed + 1_000_000 * (said["try"] - 1)
    assert len(images.only("clean")) == sum(about["role"] == "clean" for about in made) > 0


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_parts_gives_the_same_pairs(tmp_path: Path, undisturbed: dict[str, bytes], count: int) -> None:
    for n in range(1, count + 1):
        gated(tmp_path, Drawing(), Part(n, count))
        assert not (tmp_path / "out").exists(), "a part publishes nothing"
    last = Drawing()
    gated(tmp_path, last)
    assert last.batches == [] and files(tmp_path) == undisturbed and len(undisturbed) == len(ROWS) + 1


@pytest.mark.parametrize("breaks", range(1, 6))
def test_a_killed_run_gives_the_same_pairs(tmp_path: Path, undisturbed: dict[str, bytes], breaks: int) -> None:
    with pytest.raises(Killed):
        gated(tmp_path, Drawing(breaks))
    gated(tmp_path, Drawing())
    assert files(tmp_path) == undisturbed


def test_a_killed_run_may_go_on_in_other_batches(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    with pytest.raises(Killed):
        gated(tmp_path, Drawing(4), batch=4)
    assert list((tmp_path / "work" / "tries").iterdir()), "a piece was finished"
    gated(tmp_path, Drawing(), batch=3)
    assert files(tmp_path) == undisturbed


def test_parts_that_took_different_pool_pictures(tmp_path: Path) -> None:
    gated(tmp_path, Drawing(), Part(1, 2))
    note = tmp_path / "work" / "tries" / "00001.json"
    said = json.loads(note.read_text())
    said["redrawn"]["noise_seed"] += 7  # of the pool picture behind it
    note.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"work; remove it and make the pairs on one of them"):
        gated(tmp_path, Drawing())


def test_none_clean_and_fewer_than_half(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gated(tmp_path / "a", Drawing(), tries=8)
    assert "palimpsest" not in capsys.readouterr().err
    monkeypatch.setitem(globals(), "BRIGHT", 0.4)
    made = gated(tmp_path / "b", Drawing(), tries=1)
    clean = sum(row["role"] == "clean" for row in made)
    said = [line for line in capsys.readouterr().err.splitlines() if "palimpsest" in line]
    assert 0 < clean < len(ROWS) / 2 and len(said) == 1
    assert f"pairs.tries 1, pairs.strength: the detector still sees the concept in {len(ROWS) - clean} of {len(ROWS)}" in said[0]
    monkeypatch.setitem(globals(), "BRIGHT", 0.0)
    with pytest.raises(
        ValueError, match=r"^pairs\.tries 2, pairs\.strength: .* in 11 of 11 redrawn pictures; raise either in params\.yaml$"
    ):
        gated(tmp_path / "c", Drawing(), tries=2)
    assert not (tmp_path / "c" / "out").exists()


@pytest.fixture
def pool(tmp_path: Path) -> Images:
    levels = torch.linspace(-0.9, 0.9, 9)[torch.tensor([8, 0, 7, 1, 6, 2, 5, 3, 4])]
    rows = [Prompt("a thing", n) for n in range(len(levels))]
    return on_disk(tmp_path / "pool" / "manifest.json", rows, [level.expand(3, 8, 8) for level in levels])


def test_candidates_are_what_the_judge_sees_in_the_order_of_the_pool(pool: Images) -> None:
    chosen, values = pairs.candidates(pool, bright, 3)
    assert [row.prompt.seed for row in chosen.rows] == [0, 2, 4] and values == [pytest.approx(v, abs=0.01) for v in (0.95, 0.84, 0.73)]
    every, _ = pairs.candidates(pool, bright, 100)
    assert {row.prompt.seed for row in every.rows} == set(bright(pool)[1].nonzero().flatten().tolist())
    assert pairs.candidates(pool, bright, 0)[1] == []


def test_no_candidate(pool: Images) -> None:
    def blind(images: Images) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.bool)

    with pytest.raises(ValueError, match=r"^pairs\.tries: .* none of 9 pool pictures; raise pool\.images, or set pairs\.tries to 0$"):
        pairs.candidates(pool, blind, 3)


def test_a_judge_sees_what_will_lie_on_the_disk() -> None:
    pixels = torch.rand(2, 3, 8, 8, generator=Generator().manual_seed(0)) * 2.2 - 1.1

    def seen(images: Images) -> tuple[Tensor, Tensor]:
        assert [row.prompt for row in images.rows] == ROWS[:2]
        return images.pixels(), torch.zeros(2)

    assert judge.judged(seen, pixels, ROWS[:2])[0].equal(data.to_bytes(pixels).float() / 127.5 - 1)


def test_noise_of_tries_is_different() -> None:
    """A generator on the CPU takes no more than 32 bits of a seed: a step of 2**32 would give every try the same noise."""
    drawn = [
        torch.randn(4, generator=Generator().manual_seed(pairs.noise_seed(seed, number))) for seed in (0, 1, 77) for number in range(1, 9)
    ]
    assert len({tuple(one.tolist()) for one in drawn}) == len(drawn)
    assert pairs.noise_seed(77, 1) == 77


def asked(images: Images) -> list[Prompt]:
    return [row.prompt._replace(text=row.prompt.text.replace("a church", "a tree")) for row in images.rows]


def as_before(model: Model, images: Images, rows: Sequence[Prompt], batch: int) -> list[Tensor]:
    """What scripts/sdedit_pairs.py computed before there was a judge."""
    made: list[Tensor] = []
    for first in range(0, len(rows), batch):
        wanted = range(len(rows))[first : first + batch]
        whole = [*wanted, *[wanted[-1]] * (batch - len(wanted))]
        draws = [Generator().manual_seed(rows[n].seed) for n in whole]
        latent = diffusion.posterior(model, diffusion.moments(model, images.pixels(whole)), diffusion.noise(model, draws))
        mix = model.guide(diffusion.encode(model, [rows[n].text for n in whole]), diffusion.encode(model, ["church"]), 4.0)
        x = diffusion.sdedit(model, latent, mix, diffusion.noise(model, draws), strength=0.7, steps=4)
        made += diffusion.decode(model, x)[: len(wanted)]
    return made


def test_without_a_judge_as_before(tiny: Model, images: Images, tmp_path: Path) -> None:
    chosen, rows = images.only("pool"), asked(images.only("pool"))
    with resumable(tmp_path / "work") as kept:
        pairs.plain(
            tmp_path / "new" / "manifest.json", rows, lambda wanted: pairs.redraw(tiny, chosen, rows, wanted, **HOW), {}, kept=kept, batch=4
        )
    on_disk(tmp_path / "old" / "manifest.json", rows, as_before(tiny, chosen, rows, 4), ["clean"] * len(rows))
    for file in sorted((tmp_path / "old").rglob("*.*")):
        assert (tmp_path / "new" / file.relative_to(tmp_path / "old")).read_bytes() == file.read_bytes(), file.name


def test_recorded_seeds_reproduce_a_row(tiny: Model, images: Images, tmp_path: Path) -> None:
    """Alone in its batch, from what the manifest says."""
    chosen, rows, manifest = images.only("pool"), asked(images.only("pool")), tmp_path / "out" / "manifest.json"

    def last_but_one(shown: Images) -> tuple[Tensor, Tensor]:
        value = shown.pixels().flatten(1).mean(1)
        return value, value > value.sort().values[1]

    with resumable(tmp_path / "work") as kept:
        pairs.gated(
            manifest, rows, lambda wanted: pairs.redraw(tiny, chosen, rows, wanted, **HOW), {},
            kept=kept, batch=4, judge=last_but_one, tries=3, before=[1.0] * len(rows),
        )  # fmt: skip
    made = json.loads(manifest.read_text())["pictures"]
    assert len({row["redrawn"]["try"] for row in made}) > 1, "first and further tries are compared"
    for n, (row, picture) in enumerate(zip(made, Images.load(manifest).pixels(), strict=True)):
        assert row["redrawn"]["noise_seed"] == pairs.noise_seed(row["prompt"]["seed"], row["redrawn"]["try"])
        again = pairs.redraw(tiny, chosen, rows, [Try(n, row["redrawn"]["try"])] * 4, **HOW)
        assert (data.to_bytes(again[0]).float() / 127.5 - 1).equal(picture)


def test_what_is_steered_away_from(tiny: Model, images: Images) -> None:
    chosen = images.only("pool")
    chosen = replace(
        chosen, rows=[row._replace(prompt=row.prompt._replace(text=f"{row.prompt.text} {n}")) for n, row in enumerate(chosen.rows)]
    )
    rows, seen = asked(chosen), []

    def guide(text: Tensor, away: Tensor, scale: float) -> Any:
        seen.append(away)
        return diffusion.guided(text, away, scale)

    model, wanted = tiny._replace(guide=guide), [Try(1, 1), Try(3, 2)]
    made = [pairs.redraw(model, chosen, rows, wanted, **HOW, **more) for more in ({}, {"negative": "prompt"}, {"negative": "none"})]
    assert seen[0].equal(diffusion.encode(tiny, ["church"])) and seen[2].equal(diffusion.encode(tiny, [""]))
    assert seen[1].equal(diffusion.encode(tiny, [chosen.rows[n].prompt.text for n, _ in wanted])) and not seen[1][0].equal(seen[1][1])
    assert not any(a.equal(b) for a, b in ((made[0], made[1]), (made[0], made[2]), (made[1], made[2])))


def script() -> Any:
    spec = importlib.util.spec_from_file_location("sdedit_pairs", TOP / "scripts/sdedit_pairs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job(concept: data.Concept, images: Images, settings: dict[str, Any], gate: dict[str, Any]) -> Any:
    """What the script is given, in the present folder."""
    prompts, pool = Path("results/church/prompts/mini.json"), Path("results/church/pool/mini/manifest.json")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text(json.dumps({"texts": concept.texts}))
    on_disk(pool, [row.prompt for row in images.rows], list(images.pixels()), [row.role for row in images.rows])

    @contextmanager
    def scratch(*inputs: str) -> Iterator[resume.Kept]:
        with resumable(Path("work") / str(len(gate))) as kept:
            yield kept

    sampler = {"steps": 4, "guidance": 4.0}
    return SimpleNamespace(
        concept="church", base="mini", pool=str(pool), reads={"base": MINI, "sampler": sampler, "pairs": settings, **gate},
        sampler={**sampler, "batch": 4}, scratch=scratch, record=lambda settings, *_: {"settings": settings},
    )  # fmt: skip


@pytest.mark.parametrize("tries", [0, 2])
def test_the_script(tries: int, concept: data.Concept, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On mini, with the judge of the report."""
    monkeypatch.chdir(tmp_path)
    detector = {"score": "objects", "classes": ["church"], "threshold": 0.5}
    entries = {"objects": {"of": "yolo", "settings": {"weights": str(TOP / "data/mini/judge.safetensors")}}}
    gate = {"detector": detector, "scores": entries}
    more = {"tries": tries} if tries else {}
    script().main(job(concept, images, {"images": 5, "strength": 0.7, **more}, gate if tries else {}))
    about = json.loads(Path("results/church/pairs/mini/manifest.json").read_text())
    assert [row["prompt"]["seed"] for row in about["pictures"]] == list(range(5))
    assert {row["prompt"]["text"] for row in about["pictures"]} == {"a photo of a tree in a field"}
    assert all(("redrawn" in row) == bool(tries) for row in about["pictures"])
    if tries:
        assert about["record"]["settings"] == {"images": 5, "strength": 0.7, "tries": 2, "detector": detector, "scores": entries}
        for row in about["pictures"]:
            said = row["redrawn"]
            assert said["pool_value"] > 0.5 and said["try"] <= 2 and (said["value"] <= 0.5) == (row["role"] == "clean")
