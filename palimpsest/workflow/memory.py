"""What is known of how results were made, and what follows for a run: `statements`, `settle`, `keep`.

A statement says: this command, with these dependencies, gave these outputs, each by its md5. dvc.lock holds one for every job of the
grid, work/done/ the latest few of every job that ran here. Statements stay true for ever, so a job is up to date when any of them agrees
with the disk; dependencies that are not here (not pulled) count as unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from palimpsest.files import md5, whole, write_json, write_text
from palimpsest.workflow import jobs, paths, plan
from palimpsest.workflow.jobs import Job
from palimpsest.workflow.params import ParamsError

LOCK = Path("dvc.lock")
DONE = Path("work/done")
HIDDEN = Path("results/.dvcignore")
KEPT = Path("work/kept")  # small files by their md5
LONG_AGO = 10**9  # nanoseconds: one second past the epoch; 0 is no time at all to Snakemake
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
    """The statements of dvc.lock, by name of the job.

    Raises:
        ParamsError: the file cannot be read.
    """
    if not LOCK.exists():
        return {}
    try:
        stages = yaml.load(LOCK.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
    except (yaml.YAMLError, KeyError, TypeError):
        raise ParamsError(
            f"{LOCK} cannot be read, perhaps after a merge; take one side (`git checkout --ours {LOCK}` or --theirs) and run again: "
            "what the other side made is found in the cache or made again"
        ) from None
    return {name: Statement(about["cmd"], hashed(about, "deps"), hashed(about, "outs")) for name, about in stages.items()}


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


# What a job that is about to run asks


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
    import configparser

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


# What a run asks before it is planned


class Settled(NamedTuple):
    stale: dict[str, list[str]]  # job -> why it is to run again, where it is not for another job's sake
    below: list[str]  # jobs that follow from these
    edited: list[str]  # files that nobody made
    gone: list[str]  # pictures and tensors that are not beside the small file that vouches for them


def settle(known_jobs: Sequence[Job]) -> Settled:
    """Give every result the time stamp that tells Snakemake the truth: not older than its inputs if it is up to date, of long ago if not.

    Args:
        known_jobs: each behind those that it needs.
    """
    hashes = Hashes()
    late: set[str] = set()  # files that will be made again
    times: dict[str, int] = {}
    found = Settled({}, [], [], [])
    for job in known_jobs:
        here = [Path(out) for out in job.small if Path(out).exists()]
        known = statements(job)
        found.gone.extend(out for out in job.outs if here and not Path(out).exists() and out not in job.small)
        above = any(file in late for file in job.files)
        if known and not above and any(agrees(job, one, hashes) for one in known):
            freshen(job, times)
            continue
        late.update(job.small)
        if not here and not known:
            continue  # never made
        edited = [str(file) for file in here if known and edited_by_hand(job, file, known, hashes)]
        found.edited.extend(edited)
        if above:
            found.below.append(job.name)
        else:
            found.stale[job.name] = reasons(job, known, here, hashes)
        if not edited:
            for file in here:
                own(file)
                os.utime(file, ns=(LONG_AGO, LONG_AGO))
        if known and not receipts(job):
            state(job, known[-1])  # dvc.lock is about to hold another one
    return found


def freshen(job: Job, times: dict[str, int]) -> None:
    """Make the outputs that are here no older than the inputs; through those that are not here, Snakemake looks further up."""
    latest = max((times[file] if file in times else time_of(file) for file in job.files), default=0)
    for out in job.small:
        if Path(out).exists() and time_of(out) < latest:
            own(Path(out))
            os.utime(out, ns=(latest, latest))
        times[out] = max(latest, time_of(out))


def time_of(file: str) -> int:
    """When Snakemake takes a file to be changed: of a link, the later of its own time and its target's; 0 where nothing is."""
    return max(Path(file).stat().st_mtime_ns, Path(file).lstat().st_mtime_ns) if Path(file).exists() else 0


def own(file: Path) -> None:
    """A private, writable copy in place of a link into the cache."""
    if file.is_symlink() or file.stat().st_nlink > 1 or not os.access(file, os.W_OK):
        with whole(file) as part:
            shutil.copyfile(file, part)


def started(job: Job) -> Path:
    """Is there while a job works; left behind by one that was killed."""
    return DONE / f"{job.name}.started"


def edited_by_hand(job: Job, file: Path, known: Sequence[Statement], hashes: Hashes) -> bool:
    now = hashes[str(file)]
    return now not in [one.outs.get(str(file)) for one in known] and not started(job).exists() and not cached(now or "")


def reasons(job: Job, known: Sequence[Statement], here: Sequence[Path], hashes: Hashes) -> list[str]:
    """Why a job is stale, each in a few words that name the file or the key."""
    if not known:
        return ["no record of how it was made"]
    said = []
    for dep in differences(job, known[0], hashes):
        if dep.startswith((paths.PLAN, paths.OTHER_PLAN)):
            said += changes(known[0].deps.get(dep, ""), Path(dep))
        else:
            said.append(f"{dep} changed")
    return said or [f"{file} is of another version; `dvc checkout {file}` brings this one back" for file in here[:1]]


def changes(before: str, file: Path) -> list[str]:
    """What differs between a version of a plan and the plan as it is."""
    old = next((place for place in (plan.HISTORY / f"{before}.json", cached(before)) if place and place.exists()), None)
    if old is None:
        return [f"{file} changed"]
    return list(compare(json.loads(old.read_text()), json.loads(file.read_text()))) or [f"{file} changed"]


def compare(old: Any, new: Any, key: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            inner = name if key in ("", "code", "files") else f"{key}.{name}"
            yield from compare(old.get(name), new.get(name), inner)
    elif old != new:
        yield f"{key} changed" if "/" in key else f"{key}: {old!r} -> {new!r}"
