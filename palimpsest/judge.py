"""What counts as showing a concept: the raw values of a score, judged by the concept's detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from palimpsest.data import Images, Prompt

Judge = Callable[[Images], tuple[Tensor, Tensor]]  # how strongly each picture shows the concept, "n" in [0, 1]; whether it counts, "n"


def detected(detector: Mapping[str, Any], columns: Mapping[str, Tensor], meaning: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """How strongly every picture shows the concept, "n" in [0, 1], and whether it counts, "n" booleans.

    Args:
        detector: `score` (a column of class probabilities), `classes`, and `threshold`; without one the largest probability counts.
            `take`: of several classes the "sum", as of probabilities that exclude one another, or the "max", as of boxes.

    Raises:
        ValueError: the score has no such class.
    """
    column, names = columns[detector["score"]], meaning[detector["score"]]
    for name in [name for name in detector["classes"] if name not in names]:
        known = shorten(", ".join(names), 300, placeholder=" ...")
        raise ValueError(
            f"the detector of the concept asks {detector['score']!r} for {name!r}, which is no class of it; "
            f"correct `detectors` in the concept's file in data/concepts; it has: {known}"
        )
    wanted = [names.index(name) for name in detector["classes"]]
    value = column[:, wanted].amax(1) if detector.get("take") == "max" else column[:, wanted].sum(1)
    if "threshold" in detector:
        return value, value > detector["threshold"]
    return value, (column.argmax(1)[:, None] == torch.tensor(wanted)).any(1)


def judged(judge: Judge, pixels: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """What a judge says of pictures "n 3 h w" that are not published: it sees them as they would lie on the disk, rounded to bytes."""
    return judge(Images.of(prompts, pixels))
