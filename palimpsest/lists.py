"""The lists of prompts about a concept, whoever wrote them, and what the workflow makes of them.

That is: what is evaluated on, each prompt with its seed, and what methods and attacks learn from. Prompts of I2P and captions of COCO,
each a CSV, may take the place of captions and of others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest import safety
from palimpsest.data import Concept, Prompt, Prompts
from palimpsest.prompts.grammar import EVALUATION, templates

CATEGORIES = {"nudity": "sexual"}  # of I2P, where it calls a concept otherwise
SEEDS = ("sd_seed", "evaluation_seed")  # one column, as I2P and as copies of it call it
PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_")  # as CLIP cuts a text before its byte pairs: words, digits, runs of marks


class Lists(NamedTuple):
    """What is said about a concept, and about everything else."""

    captions: Sequence[str]
    phrases: Sequence[str]
    scenes: Sequence[str]
    near: Mapping[str, Sequence[str]]
    pairs: Sequence[tuple[str, str]]  # with the concept, without it
    others: Sequence[str]


def names(concept: Concept) -> tuple[str, ...]:
    """What names the concept in a text: its words and its adjective."""
    return tuple(dict.fromkeys((*concept.words, concept.adjective)))


def says(text: str, words: Sequence[str]) -> bool:
    """Whether one of the words stands in a text, as itself or in the plural."""
    return any(re.search(rf"\b{re.escape(word)}(?:e?s)?\b", text, re.IGNORECASE) for word in words)


def hints(text: str, words: Sequence[str]) -> bool:
    """Whether a word of the text begins with one of the words, as "churchyard" does with "church"."""
    return any(re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE) for word in words)


def length(text: str) -> int:
    """Words, digits and runs of marks: in CLIP's tokenizer each is one token or more, and most words are one."""
    return len(PIECE.findall(text))


def quoted(words: Sequence[str]) -> str:
    return " or ".join(f'"{word}"' for word in words)


def drawable(concept: Concept, texts: Sequence[str]) -> list[str]:
    """The texts that may be drawn; how many were dropped is said (safety.py)."""
    return [row.text for row in safety.kept(concept, Prompts([Prompt(text, 0) for text in texts])).rows]


def table(setting: str, file: str, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV that a setting of the prompts names.

    Raises:
        FileNotFoundError, ValueError: it is not there; as of `rows`.
    """
    if not Path(file).exists():
        raise FileNotFoundError(
            f"prompts: {setting}: {file} is not there; `snakemake --cores 1 {file}` fetches it if data/external.yaml knows it, "
            f"or name your own copy in params.yaml"
        )
    return rows(f"prompts: {setting}", file, *columns)


def rows(key: str, file: str, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV, for which `key` asks.

    Raises:
        ValueError: it is no CSV of UTF-8, lacks a column or has no rows, or there are blanks around the name of a column.
    """
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, restval="")
            found, there = list(reader), reader.fieldnames or ()
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {file} is no CSV in UTF-8 ({error}); save it as one") from None
    for name in [name for name in there if name != name.strip()]:
        raise ValueError(f"{key}: {file}, row 1, names a column {name!r}; take out the blanks around it")
    for column in columns:
        if column not in there:
            raise ValueError(f"{key}: {file} has no column {column!r}; it has: {', '.join(there)}")
    if not found:
        raise ValueError(f"{key}: {file} has no rows; write some below the names of its columns, or name another file")
    return found


def columns(setting: str, file: str, *known: tuple[str, ...]) -> list[list[str]]:
    """The rows of a csv, cut to the first of these sets of columns that it has.

    Raises:
        ValueError: it is missing, or no CSV of UTF-8 with rows, or has none of them.
    """
    if not Path(file).is_file():
        raise ValueError(f"{setting}: {file} is not there; name a csv file, or leave the setting out")
    said = rows(setting, file)
    names = next((names for names in known if said[0].keys() >= set(names)), None)
    if names is None:
        raise ValueError(
            f"{setting}: {file} has no rows with the columns {' or '.join(map(', '.join, known))}; name them in its first line"
        )
    return [[row[name].strip() for name in names] for row in said]


def whole(said: str) -> int | None:
    """A whole number as a CSV has it, be it as 7.0, as pandas writes a column with gaps; None where it is none."""
    figures = re.fullmatch(r"\s*(\d+)(?:\.0*)?\s*", said)
    return int(figures[1]) if figures else None


def seeded(key: str, file: str, number: int, said: str) -> int:
    """A seed as a CSV has it, in this of its rows, counted from 0.

    Raises:
        ValueError: it is no whole number, or more than torch takes.
    """
    seed = whole(said)
    if seed is None or seed >= 2**63:
        raise ValueError(f"{key}: {file}, row {number + 2}, has {said!r} for a seed; write a whole number below 2**63 there")
    return seed


def unsafe(concept: Concept, file: str) -> list[Prompt]:
    """I2P's prompts of the concept's category (Schramowski et al., arXiv 2211.05105), each with its own seed.

    Categories of a prompt stand with commas and blanks between them, and are compared without the blanks, as not everybody does.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no I2P, or none of its categories is the concept.
    """
    said = table("i2p", file, "prompt", "categories")
    by = next((column for column in SEEDS if column in said[0]), None)
    if by is None:
        raise ValueError(f"prompts: i2p: {file} has no column of seeds, {quoted(SEEDS)}; name a copy of I2P that has one")
    wanted = CATEGORIES.get(concept.name, concept.name).replace("_", " ")
    known = [({part.strip().replace("-", " ") for part in line["categories"].split(",")}, line) for line in said]
    mine = [(n, line) for n, (parts, line) in enumerate(known) if wanted in parts]
    rows = [Prompt(line["prompt"], seeded("prompts: i2p", file, n, line[by])) for n, line in mine]
    if not rows:
        there = sorted({part for parts, _ in known for part in parts})
        raise ValueError(
            f"prompts: i2p: {file} has no category for {concept.name!r}; it has: {', '.join(there)}; leave i2p out for this concept"
        )
    return list(safety.kept(concept, Prompts(rows)).rows)


def pictured(rows: Sequence[Prompt], images: int, step: int) -> list[Prompt]:
    """Every prompt `images` times, its seed `step` higher each time: all of them once before any comes again, so that an attack on the
    first hundred is about a hundred prompts."""
    return [row._replace(seed=row.seed + n * step) for n in range(images) for row in rows]


def plain(concept: Concept, lists: Lists, *, images: int, other_prompts: int, i2p: str, coco: str) -> list[Prompt]:
    """What is evaluated on: the concept, everything else, what is near. Seeds count up from EVALUATION, one for each picture; I2P's and
    those of a list of captions are their own.

    Raises:
        FileNotFoundError, ValueError: a file is not what it should be, or there are fewer captions than asked for.
    """
    style = concept.word if concept.kind == "style" else ""
    shows = concept.word if concept.word in concept.classes and not style else ""
    if i2p and safety.guarded(concept):
        asked = pictured([row._replace(shows=shows) for row in unsafe(concept, i2p)], images, 1)
    else:
        asked = [Prompt(text, EVALUATION + n, "concept", shows, style) for n, text in enumerate(lists.captions)]
        asked = pictured(asked, images, len(asked))
    start = EVALUATION + len(asked)
    if coco:
        captions = table("coco", coco, "caption", "seed")
        others = [Prompt(line["caption"], seeded("prompts: coco", coco, n, line["seed"]), "other") for n, line in enumerate(captions)]
    else:
        others = [Prompt(text, start + n, "other") for n, text in enumerate(lists.others)]
    if len(others) < other_prompts:
        raise ValueError(
            f"prompts: other_prompts: {other_prompts} are asked for, and {coco or 'the list of others'} has {len(others)}; "
            f"lower it in params.yaml, or name a longer list as `coco`"
        )
    near = [(text, name, name if style else "") for name, texts in lists.near.items() for text in texts]
    start += other_prompts
    others = [*others[:other_prompts], *(Prompt(text, start + n, "near", shown, how) for n, (text, shown, how) in enumerate(near))]
    return [*asked, *safety.kept(concept, Prompts(others)).rows]


def assembled(concept: Concept, lists: Lists, *, images: int, other_prompts: int, i2p: str, coco: str) -> dict[str, Any]:
    """The lists that the workflow needs for a concept.

    Args:
        images: pictures of each prompt that names the concept; Dark Miner draws ten.
        other_prompts: how many captions of other things are evaluated; the rest of the list of others is for methods to keep.
        i2p: a CSV of I2P's prompts, which for an inappropriate concept take the place of the captions; "" for none.
        coco: a CSV of captions with their seeds, the first of which take the place of the others; "" for none.

    Returns:
        As of grammar.prompts, with more. captions: what the concept's pictures are asked with, each once. pool: "a * photo" (Dark Miner,
        Appendix A), and in its place with the anchor: anchors. train: phrases. scenes: sentences with the concept in a scene. pairs and
        without: the same sentences with the concept and without it. retain: captions of other things that are not evaluated.

    Raises:
        FileNotFoundError, ValueError: as of `plain`.
    """
    lists = Lists(
        captions=drawable(concept, lists.captions),
        phrases=drawable(concept, lists.phrases),
        scenes=drawable(concept, lists.scenes),
        near={name: drawable(concept, texts) for name, texts in lists.near.items()},
        pairs=[pair for pair in lists.pairs if len(drawable(concept, pair)) == 2],
        others=drawable(concept, lists.others),
    )
    rows = plain(concept, lists, images=images, other_prompts=other_prompts, i2p=i2p, coco=coco)
    return {
        "plain": rows,
        "captions": list(dict.fromkeys(row.text for row in rows if row.purpose == "concept")),
        "pool": [f"a {concept.adjective} photo"],
        "train": list(lists.phrases),
        "templates": templates(concept),
        "anchors": [f"a photo of {concept.anchor}"],
        "negative": [concept.word],
        "retain": list(lists.others[0 if coco else other_prompts :]),
        "scenes": list(lists.scenes),
        "pairs": [said for said, _ in lists.pairs],
        "without": [without for _, without in lists.pairs],
    }
