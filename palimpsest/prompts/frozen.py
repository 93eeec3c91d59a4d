"""The committed lists: data/prompts/<concept>.yaml, and others.yaml for everything else. Each says by whom it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from palimpsest.data import Concept
from palimpsest.lists import Lists, assembled

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
        said = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"prompts: {file} is no YAML: {' '.join(str(error).split())}") from None
    for key in ("by", *keys):
        if not isinstance(said, dict) or not said.get(key):
            raise ValueError(f"prompts: {file} says nothing under {key!r}; {file.with_name('church.yaml')} shows what it is")
    return said


def prompts(
    concept: Concept, *, seed: int, folder: str, images: int = 10, other_prompts: int = 100, i2p: str = "", coco: str = ""
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
    for n, pair in enumerate(own["pairs"]):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"prompts: {file}: number {n + 1} of pairs is no pair; write [a text with the concept, the same without it]")
    lists = Lists(**{key: own[key] for key in LISTS}, others=beside["captions"])
    record = {"by": own["by"], "others_by": beside["by"]}
    return {**assembled(concept, lists, images=images, other_prompts=other_prompts, i2p=i2p, coco=coco), "record": record}
