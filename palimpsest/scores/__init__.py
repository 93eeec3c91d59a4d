"""One file a score; `together` runs several over the same pictures."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from palimpsest.data import Images, Scores


def together(entries: Mapping[str, tuple[str, Mapping[str, Any]]], images: Images, reference: Images | None) -> Scores:
    """The columns of every entry `name: (file, settings)`, joined."""
    made = [import_module(f"palimpsest.scores.{of}").score(images, reference, **settings) for of, settings in entries.values()]
    columns = {name: column for scores in made for name, column in scores.columns.items()}
    return Scores(columns, {name: meaning for scores in made for name, meaning in scores.meaning.items()})
