"""The contract between Snakemake, DVC and the disk: tests/contract.sh, its short form here, all of it with the slow tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOP


def play(script: str, *cases: str) -> int:
    """Run a script of checks. Returns how many held, all of them; a script that misses a server's program says which, and is skipped."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(["bash", str(TOP / "tests" / script), *cases], capture_output=True, text=True, env={**os.environ, "PATH": path})
    if run.returncode == 2:
        pytest.skip(run.stdout.strip())
    assert run.returncode == 0 and "WRONG" not in run.stdout, run.stdout + run.stderr[-3000:]
    return sum(line.startswith("ok ") for line in run.stdout.splitlines())


def test_the_contract_in_short() -> None:
    assert play("contract.sh", "short") >= 28


@pytest.mark.slow
def test_the_whole_contract() -> None:
    assert play("contract.sh") > 70


@pytest.mark.slow
def test_remotes_on_servers_of_this_machine() -> None:
    assert play("remotes.sh") > 40


@pytest.mark.slow
def test_every_job_through_a_slurm_of_this_machine() -> None:
    assert play("slurm.sh") > 10
