"""The one training loop: a killed run resumes to the same bytes; clipping, schedule and log are what they say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from palimpsest import optimise
from palimpsest.optimise import Log, descend, drawn, foreseen, rate
from palimpsest.resume import lap, resumable


class Killed(Exception):
    pass


def train(folder: Path, *, killed_at: int | None = None, optimiser: str = "adamw", pause: float = 0) -> tuple[torch.Tensor, Log]:
    """Two descents one after the other, with random draws in the loss."""
    draws = torch.Generator().manual_seed(0)
    w = torch.zeros(5, requires_grad=True)
    done = 0

    def loss(step: int) -> torch.Tensor:
        nonlocal done
        if killed_at is not None and done == killed_at:
            raise Killed
        done += 1
        return (w - torch.randn(5, generator=draws)).pow(2).sum()

    with resumable(folder):
        logs = [
            descend(loss, [w], steps=30, lr=0.1, optimiser=optimiser, generator=draws, pause=pause, schedule="cosine") for _ in range(2)
        ]
    return w.detach(), logs[0] + logs[1]


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("killed_at", [3, 20, 30, 44])
@pytest.mark.parametrize("pause", [0.0, math.inf])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, killed_at: int, optimiser: str, pause: float) -> None:
    whole, log = train(tmp_path / "whole", optimiser=optimiser)
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=killed_at, optimiser=optimiser, pause=pause)
    resumed, again = train(tmp_path / "killed", optimiser=optimiser)
    assert torch.equal(whole, resumed) and log == again


def test_a_finished_descent_is_not_run_again(tmp_path: Path) -> None:
    train(tmp_path)
    train(tmp_path, killed_at=0)  # would raise at its first step


def test_what_was_drawn_is_not_drawn_again(tmp_path: Path) -> None:
    def run(alive: bool) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator().manual_seed(0)

        def make() -> torch.Tensor:
            assert alive, "it lies in the folder"
            return torch.randn(3, generator=draws)

        with resumable(tmp_path):
            return drawn(make, draws), torch.randn(3, generator=draws)

    first, again = run(alive=True), run(alive=False)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(*first)


def test_seconds_of_a_killed_run_are_counted(tmp_path: Path) -> None:
    w = torch.zeros(1, requires_grad=True)

    def loss(step: int) -> torch.Tensor:
        time.sleep(0.02)
        if step == 5 and not killed:
            killed.append(step)
            raise Killed
        return w.pow(2).sum()

    killed: list[int] = []
    with pytest.raises(Killed), resumable(tmp_path):
        descend(loss, [w], steps=10, lr=0.1, pause=0)
    with resumable(tmp_path) as kept:
        descend(loss, [w], steps=10, lr=0.1, pause=0)
    assert 0.1 <= kept.seconds < 10


def test_gradients_are_clipped_and_logged_before_clipping() -> None:
    w = torch.zeros(1, requires_grad=True)
    log = descend(lambda _: 30 * w.sum(), [w], steps=1, lr=1.0, optimiser="sgd", clip=10.0)
    assert log[0]["gradient_norm"] == pytest.approx(30) and w.item() == pytest.approx(-10)
    assert w.grad is None


def test_what_a_loss_notes_is_logged_and_survives_a_kill(tmp_path: Path) -> None:
    def run(fails: bool) -> Log:
        w, noted = torch.ones(2, requires_grad=True), {}

        def loss(step: int) -> torch.Tensor:
            if fails and step == 2:
                raise Killed
            noted["first"] = w[0].detach()
            return w.pow(2).sum()

        with resumable(tmp_path):
            return descend(loss, [w], steps=4, lr=0.25, optimiser="sgd", noted=noted, pause=0)

    with pytest.raises(Killed):
        run(fails=True)
    assert [row["first"] for row in run(fails=False)] == [1, 0.5, 0.25, 0.125]


def test_schedules() -> None:
    assert [rate({5: 0.1, 8: 0.01}, step, 10) for step in (0, 4, 5, 7, 8)] == [1, 1, 0.1, 0.1, 0.01]
    assert rate("cosine", 5, 10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert rate("constant", 9, 10) == 1


def test_a_checkpoint_that_is_long_in_writing_is_not_written_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, clock, w = [], iter(range(10**6)), torch.zeros(1, requires_grad=True)

    def slow(file: Path, *_: object) -> None:
        written.append(file)
        for _ in range(100):
            next(clock)

    monkeypatch.setattr(optimise, "keep", slow)
    monkeypatch.setattr(optimise.time, "perf_counter", lambda: float(next(clock)))
    with resumable(tmp_path):
        descend(lambda _: w.pow(2).sum(), [w], steps=50, lr=0.1, pause=20.0)
    assert len(written) == 3  # at steps 20 and 40, and at the end


def test_a_finished_descent_leaves_no_state_of_its_optimiser(tmp_path: Path) -> None:
    train(tmp_path)
    states = [torch.load(file, weights_only=True) for file in sorted(tmp_path.glob("descent-*.pt"))]
    assert len(states) == 2 and all(state["optimiser"] is None and len(state["log"]) == 30 for state in states)


@pytest.mark.parametrize("loss", [lambda w: w.sum() / 0, lambda w: (w.sum() - w.sum().detach()).abs().sqrt()])
def test_a_training_that_diverges_ends_in_one_line(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="mine: at step 0 loss or gradient is no finite number; lower the learning rate"):
        descend(lambda _: loss(w), [w], steps=3, lr=0.1, title="mine")
    assert w.tolist() == [1, 1] and w.grad is None


def test_laps_count_what_earlier_runs_spent(tmp_path: Path) -> None:
    def run() -> dict[str, float]:
        w = torch.zeros(1, requires_grad=True)
        with resumable(tmp_path) as kept:
            for name in ("first", "second"):
                with lap(name):
                    descend(lambda _: time.sleep(0.02) or w.pow(2).sum(), [w], steps=4, lr=0.1)
        return kept.laps

    whole, again = run(), run()
    assert set(whole) == set(again) == {"first", "second"}
    assert all(0.08 <= seconds < 5 for seconds in (*whole.values(), *again.values()))  # the second run trained nothing


@pytest.mark.parametrize(("ahead", "asked"), [(1, [[3], [1], [4], [1], [5]]), (2, [[3, 1], [4, 1], [5]]), (8, [[3, 1, 4, 1, 5]])])
def test_steps_are_answered_ahead_and_each_once(ahead: int, asked: list[list[int]]) -> None:
    heard: list[list[int]] = []

    def answer(some: Sequence[int]) -> list[int]:
        heard.append(list(some))
        return [n * n for n in some]

    known = foreseen([3, 1, 4, 1, 5], ahead, answer)
    assert not heard and [known(step) for step in (0, 0, 1, 2, 3, 4)] == [9, 9, 1, 16, 1, 25]
    assert heard == asked
