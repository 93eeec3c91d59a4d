"""Published figures beside measured ones, read from data/reported/*.csv; the README there says what each figure means."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("data/reported")
SOURCES = ("darkminer", "stereo", "unlearndiffatk")  # of a column that several printed the first counts: its protocol is that of `papers`


class Figure(NamedTuple):
    """A printed figure; the fields are the columns of the files."""

    source: str  # a key of SOURCES
    table: str
    concept: str
    base: str
    method: str
    variant: str  # the setting of an ablation, such as "tau=0.3"; empty in the papers' main tables
    column: str  # as in results/<concept>/<method>/table.csv, where that has one
    value: float


def figure(row: Sequence[str], where: str) -> Figure:
    """The figure of a line; `where` it stands is for the complaint."""
    try:
        return Figure._make([*row[:-1], float(row[-1])])
    except (IndexError, TypeError, ValueError):
        raise ValueError(f"{where}: {','.join(row)!r} is no figure; write a text for each column and the printed digits last") from None


def figures(file: Path) -> list[Figure]:
    """The figures of a file, in its order.

    Raises:
        ValueError: its header is not the fields of Figure, a line has not as many, or a value is no number.
    """
    with file.open(newline="") as lines:
        head, *rows = list(csv.reader(lines)) or [[]]
    if tuple(head) != Figure._fields:
        raise ValueError(f"{file}: the header is {','.join(head)!r}; make it {','.join(Figure._fields)!r}")
    return [figure(row, f"{file}, line {n}") for n, row in enumerate(rows, 2)]


def published(
    concept: str, base: str, method: str, *, sources: Sequence[str] = SOURCES, folder: Path = FOLDER
) -> dict[str, tuple[float, str]]:
    """column -> what was printed about a method, and who printed it; ablations apart.

    Args:
        sources: whose figures, the first that has a column before the others.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there; run from the top of the repository")
    known = [f for file in sorted(folder.glob("*.csv")) for f in figures(file) if f.source in sources and not f.variant]
    made: dict[str, tuple[float, str]] = {}
    for f in sorted(known, key=lambda f: sources.index(f.source)):
        if (f.concept, f.base, f.method) == (concept, base, method):
            made.setdefault(f.column, (f.value, f.source))
    return made


def status(published: float, measured: float | None, low: float | None, high: float | None) -> str:
    """Where the measured figure lies, seen from the published one: how far above or below it, unless its interval holds it.

    Args:
        measured: in the unit of `published`; None or nan: there is none.
        low, high: the ends of its 95 % interval; None or nan: it has none, and only equal figures agree.
    """
    if measured is None or math.isnan(measured):
        return "not measured"
    ends = [measured if end is None or math.isnan(end) else end for end in (low, high)]
    if ends[0] <= published <= ends[1]:
        return "within the interval"
    return f"{'above' if measured > published else 'below'} by {abs(measured - published):.3g}"


class Beside(NamedTuple):
    """A published figure and what came of it here."""

    method: str
    base: str
    seed: str
    column: str
    published: float
    source: str
    measured: float | None
    status: str


def beside(concept: str, rows: Sequence[Mapping[str, str]], folder: Path = FOLDER) -> list[Beside]:
    """For the rows of tables (method, base, seed and columns, as text) every published figure of their method on their base."""
    made = []
    for row in rows:
        for column, (value, source) in published(concept, row["base"], row["method"], folder=folder).items():
            measured, low, high = (float(text) if (text := row.get(name)) else None for name in (column, f"{column} low", f"{column} high"))
            said = status(value, measured, low, high)
            made.append(Beside(row["method"], row["base"], row["seed"], column, value, source, measured, said))
    return made
