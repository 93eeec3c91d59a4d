"""Work that jobs share is done once, and comes out the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model
from test_plugins import SMALL

from palimpsest import data, reuse
from palimpsest.methods import duo, stereo
from palimpsest.optimise import descend
from palimpsest.resume import Kept, Shares, resumable

ALIKE = "the same base, concept, pictures, code and seed"


class Killed(Exception):
    pass


def made(log: list[str], name: str = "a", fails: bool = False) -> reuse.Result:
    """Two trainings, one behind the other."""
    tensors = {}
    for key in ("first", "second"):
        start = torch.zeros(2, requires_grad=True)
        descend(lambda step, start=start: (start - step).pow(2).sum(), [start], steps=3, lr=0.1)
        tensors[key] = start.detach()
        log.append(f"{name} {key}")
        if fails:
            raise Killed
    return tensors, [{"loss": 0.25}]


def job(folder: Path, name: str, alike: str = ALIKE, results: tuple[Path, ...] = ()) -> Any:
    return resumable(folder / name, shares=Shares(alike, list(results), folder / "shared"))


def same(a: reuse.Result, b: reuse.Result) -> bool:
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(a[0][key], b[0][key]) for key in a[0])


def test_the_first_makes_it_and_the_others_take_it(tmp_path: Path) -> None:
    log: list[str] = []
    results = []
    for name in ("one", "two"):
        with job(tmp_path, name) as kept:
            results.append(reuse.once("part", {"steps": 3}, lambda: made(log)))
            assert list(kept.shared) == ["part"]
    assert log == ["a first", "a second"] and same(*results)


@pytest.mark.parametrize("other", ["settings", "alike", "name"])
def test_another_setting_input_or_part_is_made_anew(other: str, tmp_path: Path) -> None:
    log: list[str] = []
    with job(tmp_path, "one"):
        reuse.once("part", {"steps": 3}, lambda: made(log))
    with job(tmp_path, "two", "another base" if other == "alike" else ALIKE):
        reuse.once("tail" if other == "name" else "part", {"steps": 4 if other == "settings" else 3}, lambda: made(log))
    assert len(log) == 4


def test_a_killed_job_goes_on_inside_and_behind_it(tmp_path: Path) -> None:
    """Trainings of the part have numbers of their own: those behind it do not depend on who made it."""
    log: list[str] = []

    def behind() -> float:
        start = torch.ones(1, requires_grad=True)
        descend(lambda _: start.pow(2).sum(), [start], steps=2, lr=0.5)
        return start.item()

    with pytest.raises(Killed), job(tmp_path, "one"):
        reuse.once("part", {}, lambda: made(log, fails=True))
    assert [file.name for file in sorted((tmp_path / "one/part").iterdir())] == ["descent-0000.pt"]
    ends = []
    for _ in range(2):
        with job(tmp_path, "one"):
            reuse.once("part", {}, lambda: made(log, "b"))
            ends.append(behind())
    assert log == ["a first", "b first", "b second"] and ends[0] == ends[1]


def test_what_it_took_counts_for_the_job_that_made_it(tmp_path: Path) -> None:
    spent = {}
    for name in ("one", "one", "two"):
        with job(tmp_path, name) as kept:
            reuse.once("part", {}, lambda: made([]))
        spent[name] = kept.seconds
    assert spent["one"] > 0 and spent["two"] == 0


def test_without_a_job_nothing_is_shared() -> None:
    log: list[str] = []
    reuse.once("part", {}, lambda: made(log))
    reuse.once("part", {}, lambda: made(log))
    assert len(log) == 4


@pytest.fixture
def erased(concept: data.Concept, images: data.Images, tmp_path: Path) -> Iterator[Any]:
    """Erase with STEREO as a job does: what it made, what it shared, and its file."""

    def erase(name: str, folder: str, results: tuple[Path, ...] = (), **settings: Any) -> tuple[Any, Kept, Path]:
        file = tmp_path / name / "e.json"
        with job(tmp_path / folder, name, results=results) as kept:
            erasure = stereo.erase(random_model(), concept, images, seed=3, **SMALL["stereo"] | settings)
        erasure.save(file, {"shared": kept.shared})
        return erasure, kept, file

    yield erase


def test_a_sweep_of_reo_searches_once(erased: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, file = erased("a", "here")
    with monkeypatch.context() as no_search:
        no_search.setattr(stereo, "search", lambda *_, **__: pytest.fail("searched again"))
        same_place, _, _ = erased("b", "here", w_neg=2.0)
        pulled, _, _ = erased("c", "elsewhere", (file,), w_neg=2.0)  # from the artifact alone
        file.with_suffix(".found.safetensors").unlink()
    alone, _, _ = erased("d", "alone", (file,), w_neg=2.0)  # a table pulled without the words
    for other in (same_place, pulled):
        assert other.log == alone.log and all(torch.equal(other.tensors[key], alone.tensors[key]) for key in alone.tensors)
        assert all(torch.equal(other.found[key], first.found[key]) for key in first.found)
    assert any(not torch.equal(first.tensors[key], alone.tensors[key]) for key in alone.tensors)


def test_another_search_is_searched(erased: Any) -> None:
    first, kept, file = erased("a", "here")
    other, again, _ = erased("b", "here", (file,), ste_lr=2e-2)
    assert kept.shared != again.shared
    assert any(not torch.equal(first.found[key], other.found[key]) for key in first.found)


@pytest.mark.parametrize("order", [(4, 2, 6), (6, 4, 2), (3, 7, 4)])
def test_a_sweep_of_duo_trains_only_what_is_new(
    order: tuple[int, ...], concept: data.Concept, images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strength by the number of steps: entries begin at the last checkpoint that any of them left, and end as if they were alone."""
    settings = SMALL["duo"] | {"checkpoint": 2}
    taken: list[int] = []
    wrong = duo.errors
    monkeypatch.setattr(duo, "errors", lambda *given: taken.append(1) or wrong(*given))  # twice a step: phi's and theta's

    for steps in order:
        with job(tmp_path, str(steps)):
            made = duo.erase(random_model(), concept, images, seed=3, **settings | {"steps": steps})
        alone = duo.erase(random_model(), concept, images, seed=3, **settings | {"steps": steps})
        assert made.log == alone.log and all(torch.equal(made.tensors[key], alone.tensors[key]) for key in alone.tensors)
    new = {(4, 2, 6): 4 + 0 + 2, (6, 4, 2): 6, (3, 7, 4): 3 + 5 + 0}[order]
    assert len(taken) == 2 * (new + sum(order))
