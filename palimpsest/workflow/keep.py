"""`keep`: the outputs of a job that is about to run, without running it, from DVC's cache or from what was put by here."""

from __future__ import annotations

import configparser
import json
import shutil
from functools import cache
from pathlib import Path

from palimpsest.files import whole
from palimpsest.workflow.jobs import Job
from palimpsest.workflow.memory import KEPT, Hashes, Statement, differences, locked, receipts


def keep(job: Job) -> bool:
    """Bring the outputs of a job back without running it, if a statement says what they are. True if they are there."""
    hashes = Hashes()
    if any(hashes.of(job, dep) is None for dep in job.inputs):
        return False
    sources = (receipts, locked)  # dvc.lock, which may be long, is read only where the receipts do not do
    return any(not differences(job, known, hashes) and restore(job, known) for source in sources for known in source(job))


def restore(job: Job, statement: Statement) -> bool:
    """Whether every output is there as stated, after those that are not were brought back."""
    hashes = Hashes()
    found = {out: cached(statement.outs.get(out) or "") for out in job.outs if hashes[out] != statement.outs.get(out)}
    if not all(found.values()):
        return False
    for out, source in found.items():
        copy_back(source, Path(out))  # type: ignore[arg-type]
    return True


@cache
def cache_folder() -> Path:
    """DVC's cache, from its configuration."""
    for name in ("config.local", "config"):
        config = configparser.ConfigParser()
        config.read(Path(".dvc") / name)
        if config.has_option("cache", "dir"):
            return Path(".dvc") / config.get("cache", "dir")
    return Path(".dvc/cache")


def in_dvc(hash_value: str) -> Path:
    """Where DVC keeps what has this hash."""
    return cache_folder() / "files" / "md5" / hash_value[:2] / hash_value[2:]


def cached(hash_value: str) -> Path | None:
    """A file or folder by its hash, from DVC's cache or from what was put by here; a folder only if all that was in it is there."""
    places = (in_dvc(hash_value), KEPT / hash_value)
    file = next((place for place in places if place.is_file()), None)
    if len(hash_value) < 32 or file is None:
        return None
    if hash_value.endswith(".dir") and not all(cached(row["md5"]) for row in json.loads(file.read_text())):
        return None
    return file


def copy_back(source: Path, out: Path) -> None:
    if source.suffix == ".dir":
        shutil.rmtree(out, ignore_errors=True)
        for row in json.loads(source.read_text()):
            copy_back(cached(row["md5"]), out / row["relpath"])  # type: ignore[arg-type]
    else:
        with whole(out) as part:
            shutil.copyfile(source, part)
