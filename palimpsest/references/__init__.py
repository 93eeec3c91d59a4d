"""One file a source of real pictures, with which generated ones are compared as a set (Frechet distance)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from palimpsest.data import Prompt


class Real(NamedTuple):
    """What each picture shows, as the prompt that would ask for it, and the pictures "3 h w" in [-1, 1] of some of these rows."""

    rows: Sequence[Prompt]
    pictures: Callable[[slice], Iterable[Tensor]]
