"""What comes from elsewhere: fetched by address and digest, and made into the file that a score or a list of prompts names.

A download lies beside its result until that is made; one that was cut off or damaged is found by its digest, named, and fetched again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from palimpsest.files import whole

ANNOTATIONS = "annotations/captions_val2017.json"
IMAGENETTE = {  # folder -> class
    "n01440764": "tench", "n02102040": "english springer", "n02979186": "cassette player", "n03000684": "chain saw", "n03028079": "church",
    "n03394916": "french horn", "n03417042": "garbage truck", "n03425413": "gas pump", "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip


def digest(file: Path, kind: str) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, kind).hexdigest()


def sound(file: Path, wanted: str) -> bool:
    """Whether a file has the digest "sha256:..." (or its first figures)."""
    kind, figures = wanted.split(":")
    return file.exists() and digest(file, kind).startswith(figures)


def download(url: str, wanted: str, file: Path) -> Path:
    """Fetch what is not there, or is not sound.

    Raises:
        OSError: the address cannot be reached; ValueError: what comes from there has another digest.
    """
    import pooch

    if file.exists() and not sound(file, wanted):
        print(f"palimpsest: {file} is damaged ({wanted} was wanted); it is fetched again", file=sys.stderr)
        file.unlink()
    if not file.exists():
        try:
            pooch.retrieve(url, None, fname=file.name, path=file.parent, progressbar=True)
        except Exception as error:  # of requests, of urllib3, of the operating system: all mean the same
            said = " ".join(str(error).split())
            raise OSError(f"{url} cannot be fetched ({said}); look at the connection, or put your own copy at {file}") from None
    if not sound(file, wanted):
        kind = wanted.split(":")[0]
        raise ValueError(
            f"{file}: from {url} comes {kind}:{digest(file, kind)}, and {wanted} is wanted; is it a login page, or has it changed?"
        )
    return file


def kept(archive: Path, made: Path) -> None:
    """The download itself."""
    with whole(made) as part:
        shutil.copyfile(archive, part)


def folder(archive: Path, made: Path) -> None:
    """The folder of the same name in a zip."""
    part = made.with_name(f"{made.name}.part")
    for place in (part, made):
        shutil.rmtree(place, ignore_errors=True)
    with zipfile.ZipFile(archive) as content:
        content.extractall(part)
    (part / made.name).rename(made)
    part.rmdir()


def captions(archive: Path, made: Path) -> None:
    """One caption of each picture, drawn with seed 0 among its own in the order of their ids, pictures in the order of theirs; each with a
    seed for a picture of it."""
    with zipfile.ZipFile(archive) as content:
        said = json.loads(content.read(ANNOTATIONS))["annotations"]
    by_picture: dict[int, list[tuple[int, str]]] = {}
    for row in sorted(said, key=lambda row: (row["image_id"], row["id"])):
        by_picture.setdefault(row["image_id"], []).append((row["id"], " ".join(row["caption"].split())))
    draws = random.Random(0)
    with whole(made) as part, part.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["image_id", "caption_id", "caption", "seed"])
        writer.writerows([picture, *draws.choice(rows), 200_000 + n] for n, (picture, rows) in enumerate(by_picture.items()))


def judge(archive: Path, made: Path) -> None:
    """YOLOv8-cls trained on Imagenette, its folders named as concepts name their classes."""
    work = archive.with_suffix("")
    if not (work / "done").exists():
        with tarfile.open(archive) as content:
            content.extractall(work, filter="data")
        for place in [place for part in ("train", "val") for place in (work / "imagenette2" / part).iterdir() if place.name in IMAGENETTE]:
            place.rename(place.with_name(IMAGENETTE[place.name]))
        (work / "done").touch()
    import_module("palimpsest.scores.yolo").train(work / "imagenette2", made, size=224, epochs=100, batch=64, seed=0, work=work)
    shutil.rmtree(work)


def q16(archive: Path, made: Path) -> None:
    """The two vectors of a pickle, read without unpickling it."""
    import_module("palimpsest.scores.q16").convert(archive, made)


MAKERS: Mapping[str, Callable[[Path, Path], None]] = {"file": kept, "folder": folder, "captions": captions, "judge": judge, "q16": q16}


def make(made: Path, url: str, wanted: str, how: str) -> None:
    """Fetch and make one thing; the download stays until that is done."""
    archive = download(url, wanted, Path("work/external") / f"{made.name}-{url.rsplit('/', 1)[1]}")
    MAKERS[how](archive, made)
    archive.unlink()
