"""The committed lists: data/prompts/<concept>.yaml, and others.yaml for everything else. Each says by whom it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from palimpsest.data import Concept
from palimpsest.lists import Lists, assembled
from palimpsest.types import Count

OTHERS = "others"  # the file about everything else
LISTS = ("captions", "phrases", "scenes", "near", "pairs")


def read(file: Path, *keys: str) -> dict[str, Any]:
    """What a file says under the keys, and under `by`.

    Raises:
        FileNotFoundError: it is not there; ValueError: it is no YAML, or says nothing under a key.
    """
    if not file.exists():
        raise FileNotFoundError(f"prompts: {file} is not there; write it after {file.with_name('church.yaml')}, or take `of: template`")
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts: {file} is no YAML in UTF-8: {' '.join(str(error).split())}") from None
    for key in ("by", *keys):
        if not isinstance(said, dict) or not said.get(key):
            raise ValueError(f"prompts: {file} says nothing under {key!r}; {file.with_name('church.yaml')} shows what it is")
    return said


def texts(file: Path, key: str, said: Any) -> list[str]:
    """A list of texts, as a file says it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
        raise ValueError(f"prompts: {file}: {key} is no list of texts; write each on a line of its own, behind `- `, and in quotes")
    return said


def near(file: Path, said: Any) -> dict[str, list[str]]:
    """Texts by what they show, as a file says them.

    Raises:
        ValueError: it says them otherwise.
    """
    if not isinstance(said, dict):
        raise ValueError(f"prompts: {file}: near is no mapping; write what is near, `castle:`, and its texts below it")
    return {name: texts(file, f"near.{name}", told) for name, told in said.items()}


def pairs(file: Path, said: Any) -> list[tuple[str, str]]:
    """Pairs of texts, as a file says them.

    Raises:
        ValueError: one is no pair.
    """
    for n, pair in enumerate(said if isinstance(said, list) else [said]):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"prompts: {file}: number {n + 1} of pairs is no pair; write [a text with the concept, the same without it]")
    return [(shown, without) for shown, without in said]


def prompts(
    concept: Concept, *, seed: int, folder: str, images: Count = 10, other_prompts: int = 100, i2p: str = "", coco: str = ""
) -> dict[str, Any]:
    """The lists of a folder, whole and in their order; nothing is drawn at random.

    Args:
        folder: where they are. It has no default, so that a plan names it and what lies there.
        images, other_prompts, i2p, coco: as of lists.assembled.

    Raises:
        FileNotFoundError, ValueError: a file is missing or incomplete, or there are fewer captions than asked for.
    """
    file, others = (Path(folder) / f"{name}.yaml" for name in (concept.name, OTHERS))
    own, beside = read(file, *LISTS), read(others, "captions")
    plain = {key: texts(file, key, own[key]) for key in ("captions", "phrases", "scenes")}
    lists = Lists(
        **plain,
        near=near(file, own["near"]),
        pairs=pairs(file, own["pairs"]),
        others=texts(others, "captions", beside["captions"]),
    )
    record = {"by": own["by"], "others_by": beside["by"]}
    return {**assembled(concept, lists, images=images, other_prompts=other_prompts, i2p=i2p, coco=coco), "record": record}
