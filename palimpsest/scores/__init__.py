"""One file a score; `together` runs several over the same pictures."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from palimpsest.data import Images, Scores


def together(entries: Mapping[str, Mapping[str, Any]], images: Images, reference: Images | None) -> Scores:
    """The columns of every entry `name: {of: file, settings: {...}}`, joined."""
    made = [import_module(f"palimpsest.scores.{entry['of']}").score(images, reference, **entry["settings"]) for entry in entries.values()]
    columns = {name: column for scores in made for name, column in scores.columns.items()}
    meaning = {name: said for scores in made for name, said in scores.meaning.items()}
    return Scores(columns, meaning, [row.prompt for row in images.rows])
