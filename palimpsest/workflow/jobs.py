"""The jobs of the graph, as dvc.yaml states them: command, dependencies and outputs of each, without importing DVC."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest.workflow import paths, sheets

Settings = Mapping[str, Any]  # params.yaml
FILE = Path("dvc.yaml")
AXES = {"concept": "concepts", "method": "methods", "attack": "attacks", "base": "bases", "seed": "seeds"}
IN_GIT = "/metrics.json"  # the one output that git keeps
BESIDE = (".safetensors", "/images", IN_GIT)  # outputs for which a small file beside them vouches


class Job(NamedTuple):
    """One run of a script. Snakemake declares the small files; pictures and tensors lie beside them."""

    stage: str
    names: Mapping[str, str]
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    folders: Mapping[str, tuple[str, ...]]  # dependencies that hold what several jobs made -> the files in them

    @property
    def name(self) -> str:
        """As DVC calls it."""
        return f"{self.stage}@{'-'.join(self.names.values())}"

    @property
    def small(self) -> tuple[str, ...]:
        return tuple(out for out in self.outs if not out.endswith(BESIDE))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Small files and folders among the dependencies: what a change is seen by."""
        return tuple(dep for dep in self.deps if not dep.endswith(BESIDE))

    @property
    def files(self) -> tuple[str, ...]:
        """Small files among the dependencies, those in folders included: what Snakemake is told."""
        return tuple(file for dep in self.inputs for file in self.folders.get(dep, (dep,)) if not file.endswith(BESIDE))


@cache
def stages() -> Mapping[str, Any]:
    return sheets.loaded(FILE.read_text())["stages"]


def inside(axis: str, name: str, grid: Mapping[str, Any]) -> bool:
    """Whether a name stands in the grid."""
    return name in map(str, grid[AXES[axis]])


def pool_of(base: str, settings: Settings) -> str:
    """The base whose pictures of a concept a base takes: its own, unless `pool_from` says otherwise."""
    return settings["bases"].get(base, {}).get("pool_from", base)


def job(stage: str, names: Mapping[str, str], settings: Settings) -> Job:
    """The job of a stage for these names, in the grid or not."""
    about, grid, base = stages()[stage], settings.get("recorded", settings["grid"]), names.get("base", "")
    matrix = {axis: str(names[axis]) for axis in about.get("matrix", ())}

    def filled(text: str) -> str:
        axes = re.findall(r"\$\{item\.(\w+)\}", text)
        for axis in axes:
            text = text.replace(f"${{item.{axis}}}", matrix[axis])
        if text.startswith(paths.PLAN) and not all(inside(axis, matrix[axis], grid) for axis in axes):
            return paths.OTHER_PLAN + text.removeprefix(paths.PLAN)
        return text.replace(f"/pool/{base}/", f"/pool/{pool_of(base, settings)}/")

    outs = [next(iter(out)) if isinstance(out, dict) else out for kind in ("outs", "metrics", "plots") for out in about.get(kind, ())]
    deps = tuple(map(filled, about.get("deps", ())))
    folders = [dep for dep in deps if "." not in dep and not dep.endswith(BESIDE)]
    return Job(stage, matrix, filled(about["cmd"]), deps, tuple(map(filled, outs)), {f: held(f, stage, matrix, settings) for f in folders})


def held(folder: str, stage: str, names: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """The files that other stages put into a folder, for the names of a job and `none` beside them."""
    grid = {**settings["grid"], "concepts": [names["concept"]], "methods": list(dict.fromkeys(["none", names["method"]]))}
    near = {**settings, "grid": grid}
    makers = (other for other, about in stages().items() if other != stage and f"/{Path(folder).name}/" in str(about["outs"]))
    made = (out for other in makers for job in of_stage(other, near) for out in job.outs)
    return tuple(dict.fromkeys(out for out in made if out.startswith(f"{folder}/")))


def of_grid(settings: Settings) -> Iterator[Job]:
    """Every job that dvc.yaml makes of the grid, each behind those that it needs; the stage `plan` is left out."""
    for stage in stages():
        yield from of_stage(stage, settings)


def of_stage(stage: str, settings: Settings) -> Iterator[Job]:
    axes = list(stages()[stage].get("matrix", ()))
    for values in itertools.product(*(settings["grid"][AXES[axis]] for axis in axes)) if axes else ():
        yield job(stage, dict(zip(axes, map(str, values), strict=True)), settings)
