"""How long planning, status and recording take on a grid of some two thousand jobs.

    python benchmarks/workflow.py [CONCEPTS METHODS ATTACKS]

The jobs are the real ones of dvc.yaml; their results are small made-up files, since only the bookkeeping is measured. Prints seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

TOP = Path(__file__).parents[1]
FILES = ["Snakefile", "dvc.yaml", "params.yaml", "accepted.yaml", ".dvcignore", ".gitignore"]
FOLDERS = ["rules", "scripts", "palimpsest", "profiles", "data"]


def timed(words: str, *command: str) -> None:
    started = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    said = ran.stdout + ran.stderr
    note = next((line for line in said.splitlines() if line.startswith(("Nothing to be done", "total", "Data and pipelines"))), "")
    print(f"{words}: {seconds:.1f} s   {note}" if ran.returncode == 0 else f"{words} FAILED: {said[-600:]}", flush=True)


def project(folder: Path, concepts: int, methods: int, attacks: int) -> None:
    for name in FILES:
        shutil.copy(TOP / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(TOP / name, folder / name)
    os.chdir(folder)
    from palimpsest.workflow.params import GRIDS

    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["methods"] = {"none": {}, **{f"uce-{n}": {"of": "uce"} for n in range(1, methods)}}
    settings["attacks"] = {"none": {}, **{f"none-{n}": {"of": "none"} for n in range(1, attacks)}}
    for n in range(concepts):
        shutil.copy("data/concepts/church.yaml", f"data/concepts/c{n}.yaml")
    names = {"concepts": [f"c{n}" for n in range(concepts)], "methods": list(settings["methods"]), "attacks": list(settings["attacks"])}
    settings["grid"] |= names
    for section in GRIDS[1:]:
        settings[section] |= {"methods": ["none"], "attacks": ["none"]}
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for command in (["git", "init", "-q", "."], ["dvc", "init", "-q"]):
        subprocess.run(command, check=True)


def results(count: int) -> int:
    """Made-up results of jobs that are not built yet, with the statements of their making. Returns how many."""
    from palimpsest.workflow import jobs, memory, params, plan

    settings = params.load()
    plan.refresh(settings)
    made = 0
    for job in jobs.of_grid(settings):
        if made == count or Path(job.small[0]).exists():
            continue
        begun = memory.begun(job)
        for out in job.outs:
            file = Path(out) / "00000.png" if out.endswith("/images") else Path(out)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"job": job.name, "file": out}))
        memory.ended(job, begun)
        made += 1
    return made


def main(concepts: int = 6, methods: int = 14, attacks: int = 8) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = folder
        sys.path.insert(0, folder)
        project(Path(folder), concepts, methods, attacks)
        timed("snakemake -n, nothing built", "snakemake", "-n", "--quiet", "rules")
        whole = results(10**9)
        print(f"{whole} jobs", flush=True)
        timed("snakemake -n, all built, nothing recorded", "snakemake", "-n")
        timed(f"recording {whole} jobs", sys.executable, "scripts/record.py")
        timed("snakemake -n, all recorded", "snakemake", "-n")
        again(500)
        timed("recording 500 jobs into that", sys.executable, "scripts/record.py")
        timed("dvc status", "dvc", "status")


def again(count: int) -> None:
    """Other results for the last jobs of the grid, each with its statement."""
    from palimpsest.workflow import jobs, memory, params

    last = [job for job in jobs.of_grid(params.load()) if job.stage == "score"][-count:]
    for job in last:
        for out in job.small:
            Path(out).write_text(json.dumps({"job": job.name, "again": True}))
        memory.ended(job, memory.begun(job))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
