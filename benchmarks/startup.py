"""How much of a run is start-up: processes that begin and libraries that are imported, against all that its jobs take.

    python benchmarks/startup.py [TARGET]

Runs the target (the demo's, unless another is named) from nothing in a throw-away clone of HEAD, every Python in it with
PYTHONPROFILEIMPORTTIME, which makes it tell the seconds of each import. Minutes; prints seconds and the share.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TOP = Path(__file__).parents[1]
IMPORT = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)  # microseconds of a module itself


def bare_start() -> float:
    """Seconds until an empty Python has begun and ended."""
    started = time.perf_counter()
    for _ in range(10):
        subprocess.run([sys.executable, "-c", ""], check=True, capture_output=True)
    return (time.perf_counter() - started) / 10


def main(target: str = "results/nudity/dm2/table.csv") -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(TOP), folder], check=True)
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"}
        began = time.perf_counter()
        said = subprocess.run(["snakemake", "--cores", "2", target], check=True, capture_output=True, text=True).stderr
        lasted = time.perf_counter() - began
        imports, taken, jobs = Counter[str](), Counter[str](), Counter[str]()
        for file in Path("benchmarks/runs").rglob("*.tsv"):
            rule = file.parent.name
            log = Path("logs") / rule / file.with_suffix(".log").name
            imports[rule] += sum(map(int, IMPORT.findall(log.read_text()))) / 1e6
            taken[rule] += float(next(csv.DictReader(file.open(), delimiter="\t"))["s"])
            jobs[rule] += 1
    bare, own = bare_start(), sum(map(int, IMPORT.findall(said))) / 1e6
    print(f"{'rule':<16} jobs  seconds  of them imports")
    for rule in sorted(jobs, key=lambda rule: -taken[rule]):
        print(f"{rule:<16} {jobs[rule]:>4} {taken[rule]:>8.1f} {imports[rule]:>8.1f}")
    started = imports.total() + bare * jobs.total()
    print(f"snakemake itself imports for {own:.1f} s of {lasted:.1f} s on the clock")
    print(f"start-up: {started:.1f} of {taken.total():.1f} s in {jobs.total()} jobs, {100 * started / taken.total():.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:2])
