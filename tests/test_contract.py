"""The contract between Snakemake, DVC and the disk: tests/contract.sh, its short form here, all of it with the slow tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOP


def play(*cases: str) -> list[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(["bash", str(TOP / "tests/contract.sh"), *cases], capture_output=True, text=True, env={**os.environ, "PATH": path})
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and lines[-1] == "the contract holds", run.stdout + run.stderr[-3000:]
    return lines


def test_the_contract_in_short() -> None:
    assert sum(line.startswith("ok ") for line in play("short")) > 30


@pytest.mark.slow
def test_the_whole_contract() -> None:
    assert sum(line.startswith("ok ") for line in play()) > 80
