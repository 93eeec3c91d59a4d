"""`settle`: before a run is planned, every result gets the time stamp by which Snakemake takes it for what it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from palimpsest.files import whole
from palimpsest.workflow import paths, plan
from palimpsest.workflow.jobs import Job
from palimpsest.workflow.keep import cached
from palimpsest.workflow.memory import Hashes, Statement, agrees, differences, receipts, started, state, statements

LONG_AGO = 10**9  # nanoseconds: one second past the epoch; 0 is no time at all to Snakemake


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
    return list(plan.compare(json.loads(old.read_text()), json.loads(file.read_text()))) or [f"{file} changed"]
