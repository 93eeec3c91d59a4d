"""`record`: what ran here goes into dvc.lock and DVC's cache. The only file that imports DVC."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.workflow import jobs, keep, memory


def pending(settings: Mapping[str, Any]) -> list[str]:
    """Jobs of the grid that a statement of this machine vouches for as they lie on the disk, and that dvc.lock or the cache lack."""
    hashes, found = memory.Hashes(), []
    for job in jobs.of_grid(settings):
        if not all(hashes[out] for out in job.small) or not all(hashes.of(job, dep) for dep in job.inputs):
            continue
        if any(memory.agrees(job, one, hashes) and stored(one) for one in memory.locked(job)):
            continue
        if any(memory.agrees(job, one, hashes) for one in memory.receipts(job)):
            found.append(job.name)
    return found


def stored(statement: memory.Statement) -> bool:
    """Whether the cache has the outputs; dvc.lock alone may have come by git, or the same bytes were made here once more."""
    return all(keep.in_dvc(value).exists() for out, value in statement.outs.items() if not out.endswith(jobs.IN_GIT))


def record(settings: Mapping[str, Any]) -> int:
    """Bring dvc.lock and the cache up to date. Returns how many jobs were added; a failure is told and leaves the statements for later."""
    if not Path(".dvc").is_dir():
        return 0
    from dvc.exceptions import DvcException

    try:
        memory.hide(settings)
        names = pending(settings)
        if names:
            commit(names)
    except (DvcException, OSError) as error:
        why = " ".join(str(error).split())
        print(f"palimpsest: results are there, but not yet in dvc.lock: {why}; then `python scripts/record.py` adds them", file=sys.stderr)
        return 0
    memory.lock.cache_clear()
    return len(names)


def commit(names: Sequence[str]) -> None:
    """Put jobs that ended well into dvc.lock and the cache."""
    from dvc.dvcfile import load_file
    from dvc.repo import Repo

    with Repo() as repo, repo.lock:
        file = load_file(repo, "dvc.yaml")
        stages = [file.stages[name] for name in ("plan", *names)]
        for stage in stages:
            stage.save()
            stage.commit(relink=False)
        file.dump_stages(stages, update_pipeline=False)
