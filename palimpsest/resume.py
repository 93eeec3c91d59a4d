"""What a run keeps while it works: one that was killed goes on from there, and several may share the work. Knows neither torch nor a job.

Inside `resumable(folder)` every training keeps its state in a numbered file (optimise.py), and work on many rows leaves each finished
piece (pieces.py). Whatever lies between must be a function of the same inputs and seeds, which rule 2 of the house (pure methods) gives.
"""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Part(NamedTuple):
    """The share of one process: of the pieces of a work, every `of`-th from the `number`-th on, counted from 1."""

    number: int
    of: int


class PartDone(Exception):
    """A process has made its part. What stands behind that in the block is for the one that puts all together."""


class Shares(NamedTuple):
    """What a job may share with others (reuse.py)."""

    alike: str  # hash of all that it reads but its settings
    results: list[Path]  # of other jobs, which may hold what this one is about to make
    folder: Path  # where it lies


@dataclass
class Kept:
    """Scratch of one run, and what earlier runs and other parts spent on what is taken up from it."""

    folder: Path
    trainings: Iterator[Path]  # where each keeps its state
    part: Part | None = None
    shares: Shares | None = None
    shared: dict[str, str] = field(default_factory=dict)  # what was shared: name -> key
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    laps: dict[str, float] = field(default_factory=dict)  # seconds of what `lap` names, those of earlier runs included

    def place(self, name: str, settings: Mapping[str, Any]) -> tuple[str, Path]:
        """Key and place, without an ending, of what jobs share that differ in nothing but settings that are not among these.

        Raises:
            TypeError: this job shares nothing.
        """
        if not self.shares:
            raise TypeError(f"{name}: no job that shares anything is under way")
        key = digest(name, settings, self.shares.alike)
        return key, self.shares.folder / key

    def pieces(self, rows: int, size: int) -> list[slice]:
        """Rows 0 to `rows` in pieces of `size`: those of this part, or all."""
        whole = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        return whole[self.part.number - 1 :: self.part.of] if self.part else whole

    def ended(self) -> None:
        """To be said when all pieces are there.

        Raises:
            PartDone: this process was to make a part.
        """
        if self.part:
            raise PartDone


_resume: ContextVar[Kept | None] = ContextVar("resume", default=None)


@contextmanager
def resumable(folder: Path, part: Part | None = None, shares: Shares | None = None) -> Iterator[Kept]:
    """Keep what is finished below in `folder`, and take up what lies there. A part leaves the block when its share is made."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(folder, (folder / f"descent-{n:04d}.pt" for n in range(10**4)), part, shares)
    token = _resume.set(kept)
    try:
        yield kept
    except PartDone:
        pass
    finally:
        _resume.reset(token)


def kept() -> Kept | None:
    """That of the innermost `resumable`, where there is one."""
    return _resume.get()


@contextmanager
def lap(name: str) -> Iterator[None]:
    """Count what the block took, in earlier runs too, beside the seconds of the whole job."""
    kept, began = _resume.get(), time.perf_counter()
    before = kept.seconds if kept else 0.0
    yield
    if kept:
        kept.laps[name] = kept.seconds - before + time.perf_counter() - began


def peak_memory_mb() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def digest(*values: object) -> str:
    """A short hash of what can be written as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
