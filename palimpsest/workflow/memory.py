"""What is known of how results were made: statements. settle.py says what follows for a run, keep.py what comes back without one.

A statement says: this command, with these dependencies, gave these outputs, each by its md5. dvc.lock holds one for every job of the
grid, work/done/ the latest few of every job that ran here. Statements stay true for ever, so a job is up to date when any of them agrees
with the disk; dependencies that are not here (not pulled) count as unchanged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from palimpsest.files import md5, whole, write_json, write_text
from palimpsest.workflow import jobs, plan, sheets
from palimpsest.workflow.jobs import Job
from palimpsest.workflow.params import ParamsError

LOCK = Path("dvc.lock")
DONE = Path("work/done")
HIDDEN = Path("results/.dvcignore")
KEPT = Path("work/kept")  # small files by their md5
VERSIONS = 5


class Statement(NamedTuple):
    cmd: str
    deps: Mapping[str, str]  # path -> md5
    outs: Mapping[str, str]


class Hashes(dict[str, str | None]):
    """md5 of files, each read once; None where nothing is."""

    def __missing__(self, place: str) -> str | None:
        path = Path(place)
        self[place] = self.everything(place) if path.is_dir() else md5(path) if path.exists() else None
        return self[place]

    def folder(self, place: str, files: Iterable[str]) -> str | None:
        """Hash of a folder with these files in it, as DVC takes it; None where one is missing."""
        rows = [{"md5": self[file], "relpath": file.removeprefix(f"{place}/")} for file in files]
        listed = json.dumps(sorted(rows, key=lambda row: row["relpath"] or ""), sort_keys=True)
        return None if any(row["md5"] is None for row in rows) else hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"

    def of(self, job: Job, dep: str) -> str | None:
        """Hash of a dependency: of a folder, with the files in it that the job reads."""
        return self.folder(dep, job.folders[dep]) if dep in job.folders else self[dep]

    def everything(self, place: str) -> str | None:
        """Hash of a folder with all that lies in it."""
        return self.folder(place, [file.as_posix() for file in Path(place).rglob("*") if file.is_file() and file.suffix != ".part"])


@cache
def lock() -> dict[str, Statement]:
    """The statements of dvc.lock, by name of the job."""
    stages = lock_file().get("stages", {})
    return {name: Statement(about["cmd"], hashed(about, "deps"), hashed(about, "outs")) for name, about in stages.items()}


def lock_file() -> dict[str, Any]:
    """dvc.lock as it stands.

    Raises:
        ParamsError: the file cannot be read.
    """
    if not LOCK.exists():
        return {}
    try:
        found = sheets.loaded(LOCK.read_text())
        return {**found, "stages": found["stages"]}
    except (yaml.YAMLError, KeyError, TypeError):
        raise ParamsError(
            f"{LOCK} cannot be read, perhaps after a merge; take one side (`git checkout --ours {LOCK}` or --theirs) and run again: "
            "what the other side made is found in the cache or made again"
        ) from None


def hashed(about: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {row["path"]: row.get("md5", "") for row in about.get(kind, ())}


def receipt(job: Job) -> Path:
    return DONE / f"{job.name}.json"


def receipts(job: Job) -> list[Statement]:
    """What was stated here of a job, the latest first."""
    file = receipt(job)
    return [Statement(**row) for row in json.loads(file.read_text())["statements"]] if file.exists() else []


def locked(job: Job) -> list[Statement]:
    """What dvc.lock states of a job: one thing, or nothing."""
    return [lock()[job.name]] if job.name in lock() else []


def statements(job: Job) -> list[Statement]:
    return receipts(job) + locked(job)


def state(job: Job, statement: Statement) -> None:
    """Remember a statement as the latest of a job."""
    rows = [statement, *(other for other in receipts(job) if other != statement)]
    write_json(receipt(job), {"stage": job.stage, "names": job.names, "statements": [row._asdict() for row in rows[:VERSIONS]]})


def outside(settings: Mapping[str, Any]) -> list[Job]:
    """Jobs outside the grid that ran here; their plans are up to date."""
    inside = {job.name for job in jobs.of_grid(settings)}
    found = []
    for file in sorted(DONE.glob("*.json")):
        if file.stem not in inside:
            about = json.loads(file.read_text())
            with suppress(ParamsError, KeyError):  # of a name that params.yaml or dvc.yaml no longer has
                job = jobs.job(about["stage"], about["names"], settings)
                plan.bring(job, settings)
                found.append(job)
    return found


def jobs_here(settings: Mapping[str, Any]) -> list[Job]:
    """Every job of the grid, and those outside it that ran here, each behind those that it needs."""
    order = list(jobs.stages())
    return sorted([*jobs.of_grid(settings), *outside(settings)], key=lambda job: order.index(job.stage))


def hide(settings: Mapping[str, Any]) -> None:
    """Tell DVC to overlook what ran outside the grid: folders that stages depend on would seem changed by it."""
    lines = sorted("/" + Path(out).relative_to("results").as_posix() for job in outside(settings) for out in job.outs)
    text = "".join(f"{line}\n" for line in ["# What ran outside the grid of params.yaml; written anew by every run.", *lines])
    if not lines:
        HIDDEN.unlink(missing_ok=True)
    elif not HIDDEN.exists() or HIDDEN.read_text() != text:
        write_text(HIDDEN, text)


def differences(job: Job, statement: Statement, hashes: Hashes) -> list[str]:
    """Dependencies that are here and are not what the statement says; the command where it differs."""
    found = []
    for dep in job.inputs:
        now, stated = hashes.of(job, dep), statement.deps.get(dep)
        if now not in (None, stated):
            found.append(dep)
    return [*found, *(["the command"] if statement.cmd != job.cmd else [])]


def agrees(job: Job, statement: Statement, hashes: Hashes) -> bool:
    """Whether command, dependencies and small outputs are the statement's, those that are not here aside."""
    return not differences(job, statement, hashes) and all(hashes[out] in (None, statement.outs.get(out)) for out in job.small)


def begun(job: Job) -> Statement:
    """What a job that begins depends on."""
    hashes = Hashes()
    return Statement(job.cmd, {dep: hashes.of(job, dep) or "" for dep in job.inputs}, {})


def ended(job: Job, begun: Statement) -> None:
    """State what a job that has just ended made, and put its small files by: Snakemake deletes them before it runs a job again."""
    hashes = Hashes()
    state(job, begun._replace(outs={out: hashes[out] or "" for out in job.outs}))
    for out in job.small:
        with whole(KEPT / (hashes[out] or "")) as part:
            shutil.copyfile(out, part)


def started(job: Job) -> Path:
    """Is there while a job works; left behind by one that was killed."""
    return DONE / f"{job.name}.started"
