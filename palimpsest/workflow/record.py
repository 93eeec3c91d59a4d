"""`record`: what ran here goes into dvc.lock and DVC's cache. The only file that imports DVC."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.files import write_text
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
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    with Repo() as repo, repo.lock:
        file = load_file(repo, "dvc.yaml")
        file.lockfile_contents = known = memory.lock_file()  # DVC's own parser takes ten times as long for it
        stages = [file.stages[name] for name in ("plan", *names)]
        for stage in stages:
            stage.save()
            stage.commit(relink=False)
        if set(known) - {"schema", "stages"}:  # more than pipelines
            return file.dump_stages(stages, update_pipeline=False)
        entries = {name: entry for stage in stages for name, entry in to_lockfile(stage).items()}
        new = dumps_yaml({"schema": "2.0", "stages": entries})
        write_text(memory.LOCK, merged(memory.LOCK.read_text(), new) if memory.LOCK.exists() else new)


def merged(old: str, new: str) -> str:
    """dvc.lock with the stages of another one in place of its own, or behind them, as DVC would write it.

    DVC reads and writes all of it for that, half a minute of pure Python at 2,000 jobs. Every stage is a block that begins with its name,
    two blanks deep.
    """
    head, *blocks = re.split(r"^(?=  \S)", old, flags=re.MULTILINE)
    named = {block.split("\n", 1)[0]: block for block in [*blocks, *re.split(r"^(?=  \S)", new, flags=re.MULTILINE)[1:]]}
    return head + "".join(named.values())
