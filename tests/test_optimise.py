"""The one training loop: a killed run resumes to the same bytes; clipping, schedule and log are what they say."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch

from palimpsest.optimise import Log, descend, drawn, rate
from palimpsest.resume import resumable


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
