"""What every script does around its one call: names from the command line, its plan, one line for an error, record, cost, statement."""

from __future__ import annotations

import argparse
import errno
import importlib.metadata
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from palimpsest import locks, resume
from palimpsest.files import sha256, write_json
from palimpsest.workflow import demands, gpu, jobs, keep, memory, params, paths, plan, ready, undefined

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "palimpsest")
EXPECTED = (params.ParamsError, ValueError, OSError)  # told in one line; anything else is a fault of ours: a traceback
FULL = "the disk is full; make room and start again: finished jobs and checkpoints stay"
KEEP = "PALIMPSEST_KEEP"  # set by the Snakefile: 1, bring back what is known; 0, compute in any case


class Stage:
    """One run of a script. `names` are its positional arguments, `reads` the plan of its job where it is one of the graph's, `part` which
    share of the job this process makes, where it is not all of it (--part 2/5)."""

    reads: Mapping[str, Any]
    part: resume.Part | None

    def __init__(self, about: str, arguments: str) -> None:
        parser = argparse.ArgumentParser(description=about)
        for argument in arguments.split():
            parser.add_argument(argument)
        given = vars(parser.parse_args())
        self.part = part_of(given.pop("part", None))
        self.names: dict[str, str] = given
        self.scratches: list[Path] = []  # of work that ended well; removed when that is stated
        self.params = params.load()

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["names"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def sampler(self) -> dict[str, Any]:
        """How to draw: steps and guidance from the plan, the batch, which suits the machine, from params.yaml."""
        return {**self.reads["sampler"], "batch": self.params["bases"][self.base]["batch"]}

    @property
    def compiled(self) -> bool:
        """Whether the network that draws is compiled: as the batch, it suits the machine."""
        return self.params["bases"][self.base].get("compiled", False)

    @property
    def pool(self) -> str:
        """Pictures of the concept: the base's own, or those of the base that `pool_from` names."""
        return paths.pool(self.concept, jobs.pool_of(self.base, self.params))

    def record(self, settings: Mapping[str, Any], *inputs: str) -> dict[str, Any]:
        """What an artifact says of its making: the same for the same inputs, so that the same work gives the same bytes."""
        return {
            "command": " ".join([Path(sys.argv[0]).stem, *self.names.values()]),
            "settings": settings,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "inputs": {file: digest(Path(file)) for file in inputs},
        }

    @contextmanager
    def scratch(self, *inputs: str, entry: str = "", others: str = "", blind: Mapping[str, str] | None = None) -> Iterator[resume.Kept]:
        """A folder for this very run: another plan or another input is another folder. Stays after a kill; removed when the job has ended.

        A process that makes a part of the job leaves the block when that is done.

        Args:
            entry: of which the job is one choice, `method`; jobs that differ in nothing else may share work (reuse.py).
            others: a glob that finds their results.
            blind: names of the job that what is shared does not depend on, and the input that each stands for: {"method": its erasure}.
        """
        digests = [digest(Path(file)) for file in inputs]
        folder = Path("work") / Path(sys.argv[0]).stem / resume.digest(self.names, self.reads, digests)
        shares = self.shares(entry, others, inputs, blind or {}) if entry else None
        with resume.resumable(folder, self.part, shares) as kept:
            yield kept
        if self.part is None:
            self.scratches.append(folder)

    def shares(self, entry: str, others: str, inputs: Sequence[str], blind: Mapping[str, str]) -> resume.Shares:
        names = {name: value for name, value in self.names.items() if name != entry and name not in blind}
        reads = {**self.reads, entry: self.reads[entry]["of"]}
        digests = [digest(Path(file)) for file in inputs if file not in blind.values()]
        found = sorted(Path().glob(others)) if others else []
        return resume.Shares(resume.digest(names, reads, digests), found, Path("work") / Path(sys.argv[0]).stem / "shared")

    @contextmanager
    def cost(self, file: str, kept: resume.Kept) -> Iterator[None]:
        """What the work inside took, interrupted runs and other parts included: seconds, those of its laps, peak memory in MB.

        Not in the artifact, since it differs from run to run.
        """
        started = time.perf_counter()
        yield
        seconds, peak = kept.seconds + time.perf_counter() - started, max(kept.peak_memory_mb, resume.peak_memory_mb())
        laps = {"laps": {name: round(spent, 2) for name, spent in kept.laps.items()}} if kept.laps else {}
        write_json(Path(file), {"seconds": round(seconds, 2), "peak_memory_mb": round(peak), **laps})


def part_of(text: str | None) -> resume.Part | None:
    """`2/5` as a part.

    Raises:
        ValueError: it is none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--part {text} is no part; write K/N, as 2/5 for the second of five")
    return resume.Part(int(match[1]), int(match[2]))


def digest(file: Path) -> str:
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; `dvc pull {file}` or the rule that makes it brings it back")
    return sha256(file)


def planned(job: jobs.Job, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan of a job. By hand it is brought up to date; under Snakemake and DVC it must still agree with what is there.

    Raises:
        ParamsError: code or settings were changed while the run was under way.
    """
    now, file = plan.plan(job.stage, job.names, settings), plan.place(job)
    if KEEP not in os.environ and "DVC_STAGE" not in os.environ:
        plan.bring(job, settings)
    elif file.read_text() != plan.written(now):
        changed = "; ".join(plan.compare(json.loads(file.read_text()), json.loads(plan.written(now))))
        raise params.ParamsError(f"changed while the run was under way: {changed}; nothing is lost, start the run again")
    return now


def perform(stage: Stage, job: jobs.Job, body: Callable[[Stage], None]) -> None:
    """Run the body unless what it would make is known; state what it made.

    Raises:
        ParamsError: a part is asked of a job that can only be made whole.
    """
    asks = demands.asks(stage.params, job.stage, job.names)
    if stage.part:
        demands.divisible(stage.params, job.stage, job.names)
    with locks.alone(memory.DONE / f"{job.name}.lock"):  # a second process waits, and then finds the work done
        stage.reads = planned(job, stage.params)
        if os.environ.get(KEEP) == "1" and keep.keep(job):
            print(f"kept: nothing that {job.name} reads has changed")
            return
        if "base" in job.names:
            ready.check(stage.params, job.names["base"], job.names)
        if not stage.part:
            begun = memory.begun(job)
            memory.started(job).touch()
            with gpu.slot(asks["gpu"], stage.params["resources"]["jobs_per_gpu"]):
                body(stage)
            memory.ended(job, begun)
            memory.started(job).unlink()
            for folder in stage.scratches:
                shutil.rmtree(folder)
            return
    with gpu.slot(asks["gpu"], stage.params["resources"]["jobs_per_gpu"]):  # parts work side by side
        body(stage)


def skip(job: jobs.Job, why: str, stage: Stage) -> None:
    """The body of a job whose method or attack is not defined on its base; a part of it makes nothing."""
    print(f"skipped: {why}")
    if not stage.part:
        undefined.skip(job, why)


def run(about: str | None, arguments: str, body: Callable[[Stage], None]) -> None:
    """Run a script's body: a mistake of the user's ends in one line and exit code 1."""
    name = Path(sys.argv[0]).stem
    try:
        stage = Stage((about or "").strip(), arguments)
        if name in plan.READS:
            job = jobs.job(name, stage.names, stage.params)
            why = undefined.reason(stage.params, job.names)
            perform(stage, job, partial(skip, job, why) if why else body)
        else:
            body(stage)
    except EXPECTED as error:
        sys.exit(f"palimpsest: {told(error)}")
    except Exception:
        if not full():
            raise
        sys.exit(f"palimpsest: {FULL}")  # libraries have names of their own for it


def full() -> bool:
    """Whether there is no room for a result."""
    return any(shutil.disk_usage(place).free < 2**20 for place in ("results", "work") if Path(place).exists())


def told(error: Exception) -> str:
    """An expected error in one line, with the remedy."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FULL
    return " ".join(str(error).split())
