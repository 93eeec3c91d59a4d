"""GPU slots: no device twice, any number of processes, nothing left behind by a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palimpsest.workflow import gpu

HOLD = """
import os, sys, time
from pathlib import Path
from palimpsest.workflow import gpu
gpu.PLACE = Path(sys.argv[1])
with gpu.slot(int(sys.argv[3]), int(sys.argv[4]), ["a", "b", "c"], pause=0.02) as held:
    started = time.time()
    time.sleep(float(sys.argv[5]))
    Path(sys.argv[2]).write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {started} {time.time()}")
"""


def hold(folder: Path, name: str, wanted: int = 1, per_gpu: int = 1, seconds: float = 0.2) -> subprocess.Popen:
    arguments = [str(folder / "locks"), str(folder / name), str(wanted), str(per_gpu), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", HOLD, *arguments])


def most_at_once(folder: Path) -> dict[str, int]:
    """For each device, how many processes ever held it at the same time."""
    spans = []
    for file in folder.glob("job*"):
        names, start, end = file.read_text().split()
        spans += [(name, float(start), float(end)) for name in names.split(",")]
    return {d: max(sum(n == d and s <= t < e for n, s, e in spans) for _, t, _ in spans) for d in {n for n, _, _ in spans}}


@pytest.mark.parametrize(("wanted", "per_gpu"), [(1, 1), (2, 1), (1, 2)])
def test_no_device_is_used_by_more_jobs_than_allowed(tmp_path: Path, wanted: int, per_gpu: int) -> None:
    jobs = [hold(tmp_path, f"job{n}", wanted, per_gpu) for n in range(9)]
    assert [job.wait(60) for job in jobs] == [0] * 9
    assert len(list(tmp_path.glob("job*"))) == 9 and max(most_at_once(tmp_path).values()) <= per_gpu


def test_a_killed_process_frees_its_device(tmp_path: Path) -> None:
    jobs = [hold(tmp_path, f"long{n}", seconds=60) for n in range(3)]
    while len(list((tmp_path / "locks").glob("*"))) < 3 if (tmp_path / "locks").exists() else True:
        time.sleep(0.05)
    time.sleep(1)
    jobs[0].send_signal(signal.SIGKILL)
    assert hold(tmp_path, "job").wait(30) == 0 and (tmp_path / "job").exists()
    for job in jobs[1:]:
        job.kill()


def test_more_than_there_are_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PLACE", tmp_path)
    with pytest.raises(ValueError, match="asks for 3 GPUs and this machine has 2"), gpu.slot(3, names=["a", "b"]):
        pass


def test_other_users_may_take_what_was_made_under_a_strict_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what an older version left closed."""
    monkeypatch.setattr(gpu, "PLACE", tmp_path / "locks")
    before = os.umask(0o077)
    try:
        gpu.PLACE.mkdir(mode=0o755)
        (gpu.PLACE / "a.0").touch(0o644)
        with gpu.slot(2, names=["a", "b"]):
            assert gpu.taken(gpu.PLACE / "a.0") is None
    finally:
        os.umask(before)
    assert gpu.PLACE.stat().st_mode & 0o7777 == 0o1777
    assert [file.stat().st_mode & 0o777 for file in gpu.PLACE.iterdir()] == [0o666] * 2


def test_without_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with gpu.slot(1) as held:
        assert held == [] and os.environ["CUDA_VISIBLE_DEVICES"] == ""
