"""Pairs: a picture of the concept, and the same redrawn without it (SDEdit, Meng et al. 2022) until a judge no longer sees the concept.

DUO's pairs (Park et al. 2024, arXiv 2407.21035). Official code: naver-ai/DUO, `datasets/SD/generate_datasets.py` @e0f2ae6.
Differs from the official code: pictures of the concept come from a pool that is there already, so one in which the judge does not see it is
passed over and not drawn again; noise has recorded seeds, and tries have an end (there neither); all concepts are judged, not nudity alone;
pictures are PNG files, there JPEG, before and behind the redrawing; `sampler` is DDIM here and `pndm` there, `negative` is `prompt` there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Generator, Tensor

from palimpsest import pieces, resume
from palimpsest.data import Images, Prompt
from palimpsest.diffusion import FLOW, decode, encode, filled, kind, moments, noise, posterior, sdedit
from palimpsest.files import write_json
from palimpsest.judge import Judge, judged
from palimpsest.types import Model

FURTHER = 1_000_000  # between the seeds of one row's tries; a generator on the CPU takes no more than the low 32 bits of a seed


class Try(NamedTuple):
    """One redrawing of a row; tries are counted from 1."""

    row: int
    number: int


class Redrawn(NamedTuple):
    """The last try of a row, or the first in which the judge did not see the concept."""

    pixels: Tensor  # "3 h w" in [-1, 1]
    number: int
    value: float  # how strongly it shows the concept, in [0, 1]
    clean: bool


Draw = Callable[[Sequence[Try]], Tensor]  # "n 3 h w" in [-1, 1]


def noise_seed(seed: int, number: int) -> int:
    """Of the noise of a try: the first has the pool picture's own."""
    return seed + FURTHER * (number - 1)


def sampled(model: Model, sampler: str) -> Model:
    """The model with the scheduler that redraws. PNDM (Liu et al. 2022) is that of the published SD 1.4; it visits its second level twice,
    so of 50 steps strength 0.8 begins at level 801, DDIM's at 781. A rectified flow, for which PNDM is not made, keeps its own.
    """
    if sampler == "ddim" or kind(model) == FLOW:
        return model
    from diffusers import PNDMScheduler

    return model._replace(scheduler=PNDMScheduler.from_config(model.scheduler.config, skip_prk_steps=True))


def redraw(
    model: Model,
    images: Images,
    rows: Sequence[Prompt],
    wanted: Sequence[Try],
    *,
    word: str,
    negative: str = "concept",
    sampler: Literal["ddim", "pndm"] = "ddim",
    strength: float,
    steps: int,
    guidance: float,
) -> Tensor:
    """Tries of pictures, "n 3 h w" in [-1, 1], each with noise that its seed and the number of the try say.

    Args:
        images: with the concept.
        rows: what each is to become.
        negative: what it is steered away from: the concept's `word` ("concept"), its own prompt ("prompt", as in the official code), or
            the empty text ("none").
        sampler: DDIM, as everywhere here; or PNDM, as in the official code.
    """
    shown, seeds = [row for row, _ in wanted], [noise_seed(rows[row].seed, number) for row, number in wanted]
    draws = [Generator().manual_seed(seed) for seed in seeds]
    x = posterior(model, moments(model, images.pixels(shown)), noise(model, draws))
    away = {"concept": [word], "prompt": [images.rows[row].prompt.text for row in shown], "none": [""]}[negative]
    mix = model.guide(encode(model, [rows[row].text for row in shown]), encode(model, away), guidance)
    return decode(model, sdedit(sampled(model, sampler), x, mix, noise(model, draws), strength=strength, steps=steps))


def plain(manifest: Path, rows: Sequence[Prompt], draw: Draw, record: Mapping[str, Any], *, kept: resume.Kept, batch: int) -> None:
    """Redraw every row once, whatever comes of it."""

    def once(piece: slice) -> Tensor:
        wanted = [Try(n, 1) for n in range(len(rows))[piece]]
        return draw(filled(wanted, batch))[: len(wanted)]

    pieces.pictures(manifest, rows, once, record, kept=kept, batch=batch, roles=["clean"] * len(rows))


def candidates(pool: Images, judge: Judge, count: int) -> tuple[Images, list[float]]:
    """The first `count` pictures in which the judge sees the concept, and how strongly it does.

    Raises:
        ValueError: it sees it in none.
    """
    values, seen = judge(pool)
    found = seen.nonzero().flatten().tolist()[:count]
    if count and not found:
        raise ValueError(
            f"pairs.tries: the detector sees the concept in none of {len(pool)} pool pictures; raise pool.images, or set pairs.tries to 0"
        )
    return replace(pool, rows=[pool.rows[n] for n in found]), [values[n].item() for n in found]


def until_clean(
    rows: Sequence[int], draw: Draw, look: Callable[[Tensor, Sequence[Try]], tuple[Tensor, Tensor]], *, tries: int, batch: int
) -> list[Redrawn]:
    """Redraw rows until the judge no longer sees the concept, at most `tries` times.

    A batch has one size, so the room that rows leave holds further tries of those that are not clean yet, and costs nothing.
    """
    todo = [Try(row, number) for number in range(1, tries + 1) for row in rows]
    kept: dict[int, Redrawn] = {}
    while todo:
        now, todo = filled(todo[:batch], batch), todo[batch:]
        pixels = draw(now)
        for (row, number), picture, value, seen in zip(now, pixels, *look(pixels, now), strict=True):
            if row not in kept or not kept[row].clean:
                kept[row] = Redrawn(picture, number, value.item(), not seen)
        todo = [one for one in todo if one.row not in kept or not kept[one.row].clean]
    return [kept[row] for row in rows]


def noted(note: Path, row: Prompt) -> dict[str, Any]:
    """What was written down of a row when it was redrawn.

    Raises:
        ValueError: by another part of the work, which took another pool picture for this row.
    """
    said = json.loads(note.read_text())
    if said["redrawn"]["noise_seed"] != noise_seed(row.seed, said["redrawn"]["try"]):
        raise ValueError(
            f"pairs: machines that judge differently made parts of {note.parents[1]}; remove it and make the pairs on one of them"
        )
    return said


def gated(
    manifest: Path,
    rows: Sequence[Prompt],
    draw: Draw,
    record: Mapping[str, Any],
    *,
    kept: resume.Kept,
    batch: int,
    judge: Judge,
    tries: int,
    before: Sequence[float],
) -> None:
    """Redraw every row until it is clean; one that never is keeps its last try under the role `rejected`. The manifest is written last.

    Args:
        rows: what the redrawn pictures are asked for, with the seeds of their pool pictures.
        before: how strongly the judge saw the concept in the pool picture of each.

    Raises:
        ValueError: no row is clean.
    """
    notes = [kept.folder / "tries" / f"{n:05d}.json" for n in range(len(rows))]

    def look(pixels: Tensor, now: Sequence[Try]) -> tuple[Tensor, Tensor]:
        return judged(judge, pixels, [rows[n] for n, _ in now])

    def redrawn(piece: slice) -> list[Tensor]:
        made = until_clean(range(len(rows))[piece], draw, look, tries=tries, batch=batch)
        for note, row, one in zip(notes[piece], rows[piece], made, strict=True):  # before the picture, which says that the row is there
            said = {"try": one.number, "noise_seed": noise_seed(row.seed, one.number), "value": one.value}
            write_json(note, {"role": "clean" if one.clean else "rejected", "redrawn": said})
        return [one.pixels for one in made]

    pieces.drawn(len(rows), redrawn, kept=kept, batch=batch, title="clean")
    said = [noted(note, row) for note, row in zip(notes, rows, strict=True)]
    roles = [note["role"] for note in said]
    enough(roles, tries)
    more = [{"redrawn": {**note["redrawn"], "pool_value": value}} for note, value in zip(said, before, strict=True)]
    pieces.publish(manifest, rows, record, kept=kept, roles=roles, more=more)


def enough(roles: Sequence[str], tries: int) -> None:
    """Say how many rows became clean where it is fewer than half.

    Raises:
        ValueError: it is none.
    """
    clean = roles.count("clean")
    said = f"the detector still sees the concept in {len(roles) - clean} of {len(roles)} redrawn pictures; raise either in params.yaml"
    if roles and not clean:
        raise ValueError(f"pairs.tries {tries}, pairs.strength: {said}")
    if 2 * clean < len(roles):
        print(f"palimpsest: pairs.tries {tries}, pairs.strength: {said}", file=sys.stderr)
