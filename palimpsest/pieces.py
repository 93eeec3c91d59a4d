"""Work on many rows, in pieces: pictures `batch` at a time, attacks a few prompts at a time.

Each piece leaves a file in the scratch of the run (resume.py), so a killed run goes on, and parts of the work may run side by side. Where
pieces begin and end depends on their size alone: the bytes are the same for any number of parts and interruptions.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from palimpsest import resume
from palimpsest.data import Images, Picture, Prompt, Prompts, to_picture
from palimpsest.files import sha256, whole, write_json
from palimpsest.judge import Judge


def pictures(
    manifest: Path,
    rows: Sequence[Prompt],
    draw: Callable[[slice], Iterable[Tensor]],
    record: Mapping[str, Any],
    *,
    kept: resume.Kept,
    batch: int,
    roles: Sequence[str],
    order: Callable[[Images], Sequence[int]] | None = None,
    stored: Sequence[int] | None = None,
) -> None:
    """Draw a picture for every row; the manifest is written last.

    Args:
        draw: from a piece of the rows to its pictures, each "3 h w" in [-1, 1]; of the stored rows, where not all are.
        kept: where pictures lie until all are there.
        roles: of each, in the manifest.
        order: in which the manifest lists them, once they are there.
        stored: numbers of the rows whose pictures are drawn; the manifest only lists the others. None: all are.
    """
    drawn(len(rows if stored is None else stored), draw, kept=kept, batch=batch, title=roles[0] if roles else "")
    publish(manifest, rows, record, kept=kept, roles=roles, order=order, stored=stored)


def lasting(rows: Sequence[Prompt], others: int | None) -> list[int]:
    """Numbers of the rows whose pictures are stored: of those that should show the concept all, of the rest the first `others`, or all."""
    rest = [n for n, row in enumerate(rows) if row.purpose != "concept"]
    dropped = set(rest[len(rest) if others is None else others :])
    return [n for n in range(len(rows)) if n not in dropped]


def strongest(role: str, judge: Judge) -> Callable[[Images], list[int]]:
    """An order: pictures of a role come last, those in which the judge sees the concept most first among them."""

    def order(images: Images) -> list[int]:
        mine = [n for n, row in enumerate(images.rows) if row.role == role]
        values, _ = judge(images.only(role))
        best = values.argsort(descending=True, stable=True).tolist()
        return [n for n in range(len(images)) if n not in set(mine)] + [mine[n] for n in best]

    return order


def lying(kept: resume.Kept, rows: int) -> list[Path]:
    """Where the picture of each row lies until all are there."""
    return [kept.folder / "images" / f"{n:05d}.png" for n in range(rows)]


def drawn(rows: int, draw: Callable[[slice], Iterable[Tensor]], *, kept: resume.Kept, batch: int, title: str) -> None:
    """Draw what is not there yet, `batch` rows at a time, into the scratch; a part goes no further."""
    (kept.folder / "images").mkdir(exist_ok=True)
    files, pieces = lying(kept, rows), kept.pieces(rows, batch)
    with tqdm(total=sum(piece.stop - piece.start for piece in pieces), desc=title, mininterval=1) as bar:
        for piece in pieces:
            if not all(file.exists() for file in files[piece]):
                for file, pixels in zip(files[piece], draw(piece), strict=True):
                    with whole(file) as part:
                        to_picture(pixels).save(part, format="PNG")
            bar.update(piece.stop - piece.start)
    kept.ended()


def publish(
    manifest: Path,
    rows: Sequence[Prompt],
    record: Mapping[str, Any],
    *,
    kept: resume.Kept,
    roles: Sequence[str],
    more: Sequence[Mapping[str, Any]] | None = None,
    order: Callable[[Images], Sequence[int]] | None = None,
    stored: Sequence[int] | None = None,
) -> None:
    """Move the drawn pictures beside the manifest, which is written last.

    Args:
        more: what the manifest says of each beside its file, role and prompt.
        stored: numbers of the rows that have a picture; None: all have.
    """
    numbers = range(len(rows)) if stored is None else stored
    at = {n: {"file": f"images/{file.name}", "sha256": sha256(file)} for n, file in zip(numbers, lying(kept, len(numbers)), strict=True)}
    made = [
        {**at.get(n, {"file": "", "sha256": ""}), "role": role, "prompt": row.fields(), **about}
        for n, (row, role, about) in enumerate(zip(rows, roles, more or [{}] * len(rows), strict=True))
    ]
    if order:
        seen = Images([Picture(one["file"], one["sha256"], row, one["role"]) for one, row in zip(made, rows, strict=True)], kept.folder)
        made = [made[n] for n in order(seen)]
    manifest.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(manifest.with_name("images"), ignore_errors=True)
    shutil.move(kept.folder / "images", manifest.with_name("images"))
    write_json(manifest, {"record": record, "pictures": made})


def by_prompt(plain: Prompts, at_once: int, ask: Callable[[Prompts], Prompts]) -> Prompts:
    """An attack that finds what to ask for each plain prompt by itself, `at_once` of them at a time.

    An attack whose signature has the setting `at_once` says by it that it goes this way, and may then be made in parts.

    Args:
        ask: from some of the plain prompts to what the attack makes of them. Learned words need names that are nobody else's.
    """
    kept = resume.kept()
    if kept is None:
        return together([ask(Prompts(plain.rows[n : n + at_once], plain.vectors)) for n in range(0, len(plain.rows), at_once)])
    found = []
    for piece in tqdm(kept.pieces(len(plain.rows), at_once), desc="prompts", mininterval=1):
        file = kept.folder / f"prompts-{piece.start:05d}.json"
        if file.exists():
            spent = json.loads(file.read_text())["record"]
            kept.seconds += spent["seconds"]
            kept.peak_memory_mb = max(kept.peak_memory_mb, spent["peak_memory_mb"])
        else:
            began = time.perf_counter()
            with resume.resumable(file.with_suffix(""), shares=kept.shares) as inner:
                answer = ask(Prompts(plain.rows[piece], plain.vectors))
            seconds = inner.seconds + time.perf_counter() - began
            kept.seconds += inner.seconds
            answer.save(file, {"seconds": seconds, "peak_memory_mb": resume.peak_memory_mb()})
        found.append(Prompts.load(file))
    kept.ended()
    return together(found)


def together(found: Sequence[Prompts]) -> Prompts:
    """Several answers as one.

    Raises:
        ValueError: two have a learned word of the same name.
    """
    vectors: dict[str, Tensor] = {}
    for one in found:
        for name, value in one.vectors.items():
            if name in vectors and not vectors[name].equal(value):
                raise ValueError(f"two prompts learned a word called <{name}>; name it by the prompt's seed, for example")
            vectors[name] = value
    return Prompts([row for one in found for row in one.rows], vectors, [row for one in found for row in one.log])
