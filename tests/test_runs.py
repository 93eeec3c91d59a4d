"""Curves of runs: which runs there are, which two and two are picked, and a figure that is the same each time."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from palimpsest.report import figures, runs
from palimpsest.report.units import Look


def look(unit: int, stage: int, positive: bool) -> Look:
    return Look(unit, 100 + unit, stage, "text", float(positive), positive, False)


LOOKS = [  # units 0 and 3 are won, 1, 2 and 4 are not; unit 4 was not searched
    look(0, 0, False), look(0, 1, False), look(0, 2, True), look(1, 0, False), look(1, 1, False), look(2, 1, False), look(3, 1, True),
    look(3, 2, True), look(4, 0, False),
]  # fmt: skip
LOG = [{"unit": unit, "step": step, "loss": 1 / (1 + step + unit)} for unit in range(4) for step in range(30)]


def test_a_run_for_each_prompt_that_was_searched() -> None:
    made = runs.runs("esd", LOG, LOOKS)
    assert [(run.title, run.won) for run in made] == [
        ("esd, prompt 0", True), ("esd, prompt 1", False), ("esd, prompt 2", False), ("esd, prompt 3", True),
    ]  # fmt: skip
    assert [run.picture for run in made] == [2, 4, 5, 6], "the first that shows the concept, or else the last"
    assert made[2].steps == list(range(30)) and made[2].values[0] == pytest.approx(1 / 3) and made[2].of == "loss"


def test_two_that_succeeded_and_two_that_failed() -> None:
    every = runs.runs("esd", LOG, LOOKS)
    assert [run.title[-1] for run in runs.chosen(every)] == ["0", "3", "1", "2"]
    assert [run.title[-1] for run in runs.chosen(every, 1)] == ["0", "1"]
    assert runs.chosen([run for run in every if run.won]) == [every[0], every[3]], "none failed"


@pytest.mark.parametrize("positive, won, picture", [(4, False, 4), (9, True, 0)])
def test_a_log_about_all_prompts_is_one_run(positive: int, won: bool, picture: int) -> None:
    looks = [look(n, 1, n < positive) for n in range(10)]
    (run,) = runs.runs("uce", [{"step": n, "loss": 1.0} for n in range(5)], looks)
    assert (run.title, run.won, run.picture) == (f"uce, {10 * positive} % of 10", won, picture)


def test_lines_that_count_no_steps_or_count_them_anew() -> None:
    log = [{"unit": 0, "step": step, "loss": 1.0} for _ in range(2) for step in range(3)]
    log += [{"unit": 1, "stage": stage, "reward": 0.25} for stage in (1, 2)] + [{"unit": 2, "dropped_tokens": 80}]
    made = runs.runs("esd", log, LOOKS)
    assert [(run.steps, run.of) for run in made] == [([0, 1, 2, 3, 4, 5], "loss"), ([0, 1], "reward")]


def test_running_mean() -> None:
    assert figures.smoothed([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]
    assert figures.smoothed([4.0, 2.0], 1) == [4.0, 2.0]


def test_the_figure() -> None:
    picked = runs.chosen(runs.runs("esd", LOG, LOOKS))
    assert len(picked) == 4
    for run in picked:
        text = figures.curve(run)
        assert text == figures.curve(run) and text.startswith("<svg")
        assert [node.get("id") for node in ElementTree.fromstring(text).iter() if node.get("id", "").startswith("axes_")] == ["axes_1"]
        assert figures.ENDED[run.won] in text and figures.ENDED[not run.won] not in text
        assert f"<!-- {run.title}: {'succeeded' if run.won else 'failed'} -->" in text


def test_where_nothing_is_logged_there_is_no_run() -> None:
    assert runs.chosen(runs.runs("none", [], LOOKS)) == []
