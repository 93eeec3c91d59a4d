"""What every script does around its one call: names from the command line, its plan, one line for an error, record, cost, statement."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from palimpsest.files import sha256, write_json
from palimpsest.workflow import gpu, jobs, keep, locks, memory, params, paths, plan

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "palimpsest")
EXPECTED = (params.ParamsError, ValueError, OSError)  # told in one line; anything else is a fault of ours: a traceback
KEEP = "PALIMPSEST_KEEP"  # set by the Snakefile: 1, bring back what is known; 0, compute in any case


class Resumed(Protocol):
    seconds: float  # that earlier, interrupted runs spent on what was taken up


class Stage:
    """One run of a script. `names` are its positional arguments, `reads` the plan of its job where it is one of the graph's."""

    reads: Mapping[str, Any]

    def __init__(self, about: str, arguments: str) -> None:
        parser = argparse.ArgumentParser(description=about)
        for argument in arguments.split():
            parser.add_argument(argument)
        self.names: dict[str, str] = vars(parser.parse_args())
        self.params = params.load()

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["names"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def sampler(self) -> dict[str, Any]:
        """How to draw: steps and guidance from the plan, the batch, which changes no picture, from params.yaml."""
        return {**self.reads["sampler"], "batch": self.params["bases"][self.base]["batch"]}

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
    def cost(self, file: str, earlier: Resumed) -> Iterator[None]:
        """What the work inside took, interrupted runs included: seconds, peak memory of the process in MB.

        Not in the artifact, since it differs from run to run.
        """
        started = time.perf_counter()
        yield
        seconds, peak = earlier.seconds + time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        write_json(Path(file), {"seconds": round(seconds, 2), "peak_memory_mb": round(peak)})

    def work(self, *inputs: str) -> Path:
        """Scratch for this very run: another plan or another input is another folder."""
        key = json.dumps([self.names, self.reads, [digest(Path(file)) for file in inputs]], sort_keys=True)
        return Path("work") / Path(sys.argv[0]).stem / hashlib.sha256(key.encode()).hexdigest()[:16]


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
    """Run the body unless what it would make is known; state what it made."""
    with locks.alone(memory.DONE / f"{job.name}.lock"):  # a second process waits, and then finds the work done
        stage.reads = planned(job, stage.params)
        if os.environ.get(KEEP) == "1" and keep.keep(job):
            print(f"kept: nothing that {job.name} reads has changed")
            return
        begun = memory.begun(job)
        memory.started(job).touch()
        with gpu.slot(params.asks(stage.params, job.stage)["gpu"], stage.params["resources"]["jobs_per_gpu"]):
            body(stage)
        memory.ended(job, begun)
        memory.started(job).unlink()


def run(about: str | None, arguments: str, body: Callable[[Stage], None]) -> None:
    """Run a script's body: a mistake of the user's ends in one line and exit code 1."""
    name = Path(sys.argv[0]).stem
    try:
        stage = Stage((about or "").strip(), arguments)
        if name in plan.READS:
            perform(stage, jobs.job(name, stage.names, stage.params), body)
        else:
            body(stage)
    except EXPECTED as error:
        sys.exit(f"palimpsest: {error}")
