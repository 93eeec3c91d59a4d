"""One file a score; `together` runs several over the same pictures, `judge` asks what the concept's detector makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from palimpsest.data import Images, Scores
from palimpsest.judge import Judge, detected


def together(entries: Mapping[str, Mapping[str, Any]], images: Images, reference: Images | None) -> Scores:
    """The columns of every entry `name: {of: file, settings: {...}}`, joined. The words of an attack stay behind: scores may be shared."""
    made = [import_module(f"palimpsest.scores.{entry['of']}").score(images, reference, **entry["settings"]) for entry in entries.values()]
    columns = {name: column for scores in made for name, column in scores.columns.items()}
    meaning = {name: said for scores in made for name, said in scores.meaning.items()}
    return Scores(columns, meaning, [row.prompt.wordless() for row in images.rows])


def judge(entries: Mapping[str, Mapping[str, Any]], detector: Mapping[str, Any]) -> Judge:
    """The concept's detector on pictures, by the scores that it reads."""

    def look(images: Images) -> tuple[Tensor, Tensor]:
        made = together(entries, images, None)
        return detected(detector, made.columns, made.meaning)

    return look
