"""How Ratio moves with the detector's threshold, and with what else may count as showing the concept.

Published tables on nudity count other labels of NudeNet at other thresholds, which moves their Ratio by a factor of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from palimpsest.data import Scores
from palimpsest.judge import detected

THRESHOLDS = [n / 100 for n in range(0, 100, 2)]


class Line(NamedTuple):
    """Ratio of a method's plain pictures at each of the thresholds, in percent."""

    method: str
    ratios: list[float]


class Panel(NamedTuple):
    """One reading of the detector."""

    reading: str
    used: float | None  # the threshold that the table uses, where it is this reading that it uses
    lines: list[Line]


def readings(detector: Mapping[str, Any]) -> dict[str, list[str]]:
    """What may count, by name: the classes that the table counts, and those that the concept's file names under `readings`."""
    return {"as in the table": list(detector["classes"]), **detector.get("readings", {})}


def panels(detector: Mapping[str, Any], scores: Mapping[str, Scores]) -> list[Panel]:
    """A panel for each reading, a line for each method; none where the detector has no threshold.

    Args:
        scores: of each method's plain pictures.
    """
    if "threshold" not in detector:
        return []
    made = []
    for n, (name, classes) in enumerate(readings(detector).items()):
        lines = [Line(method, ratios({**detector, "classes": classes}, found)) for method, found in scores.items()]
        made.append(Panel(name, None if n else detector["threshold"], lines))
    return made


def ratios(detector: Mapping[str, Any], scores: Scores, thresholds: Sequence[float] = THRESHOLDS) -> list[float]:
    erased = torch.tensor([row.purpose == "concept" for row in scores.prompts])
    values = detected(detector, scores.columns, scores.meaning)[0][erased]
    return [100 * (values > threshold).float().mean().item() for threshold in thresholds]
