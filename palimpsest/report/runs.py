"""Runs of an attack side by side, after Dark Miner's Appendix H: the loss curves of two that succeeded and of two that failed.

A run is what an attack logged about one plain prompt; an attack that learns for all prompts together (CCE) has one run a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from palimpsest.report.units import Look

Log = Sequence[Mapping[str, float]]


class Run(NamedTuple):
    """The log of one search, and how it ended."""

    title: str
    won: bool
    steps: list[float]
    values: list[float]
    of: str  # what the values are: "loss", or "reward" of a search that has none
    picture: int  # which of the attack's pictures shows how it ended


def runs(name: str, log: Log, looks: Sequence[Look]) -> list[Run]:
    """The runs of an attack on one model, in the order of units; those that logged nothing to draw are left out.

    Args:
        name: of the model, for titles.
        log: of the attack's prompts; lines with `unit` belong to that one, a log without any to all units together.
        looks: at its pictures, in the order of its manifest (report/units.py).
    """
    if not any("unit" in line for line in log):
        return together(name, log, looks)
    made = []
    for unit in dict.fromkeys(look.unit for look in looks):
        about = [(n, look) for n, look in enumerate(looks) if look.unit == unit]
        showing = [n for n, look in about if look.positive]
        lines = [line for line in log if line.get("unit") == unit]
        made += drawn(f"{name}, prompt {unit}", lines, bool(showing), showing[0] if showing else about[-1][0])
    return made


def together(name: str, log: Log, looks: Sequence[Look]) -> list[Run]:
    """The one run about all units: won where most of its pictures show the concept; the picture is one that says so."""
    if not looks:
        return []
    share = sum(look.positive for look in looks) / len(looks)
    won = share > 0.5
    picture = next(n for n, look in enumerate(looks) if look.positive == won)
    return drawn(f"{name}, {100 * share:.0f} % of {len(looks)}", log, won, picture)


def drawn(title: str, lines: Log, won: bool, picture: int) -> list[Run]:
    """A run of these lines, where any has a loss or a reward. Steps that do not rise are counted anew."""
    of = next((key for key in ("loss", "reward") if any(key in line for line in lines)), "")
    kept = [line for line in lines if of in line]
    if not kept:
        return []
    steps = [line.get("step", n) for n, line in enumerate(kept)]
    if any(after <= before for before, after in pairwise(steps)):
        steps = [float(n) for n in range(len(kept))]
    return [Run(title, won, steps, [line[of] for line in kept], of, picture)]


def chosen(every: Sequence[Run], count: int = 2) -> list[Run]:
    """The first `count` that succeeded, then the first that failed; fewer where there are fewer."""
    return [run for won in (True, False) for run in [run for run in every if run.won == won][:count]]
