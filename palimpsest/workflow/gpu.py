"""A GPU for each job: Snakemake counts them, nobody assigns them. A slot is a file lock of the kernel, so it ends with its process.

The locks lie in the machine's temporary folder: several runs, checkouts and users share the same devices.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from palimpsest.locks import taken

PLACE = Path(tempfile.gettempdir()) / "palimpsest-gpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices() -> list[str]:
    """Names of the devices that this process may use, as CUDA_VISIBLE_DEVICES takes them; none where there is no GPU."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


@contextmanager
def slot(wanted: int, per_gpu: int = 1, names: Sequence[str] | None = None, pause: float = 0.5) -> Iterator[list[str]]:
    """Hold `wanted` devices, waiting until they are free, and show the process no others.

    Args:
        wanted: how many devices the job asks for; 0 leaves everything as it is, and so does a machine without any.
        per_gpu: how many jobs may share a device.
        names: the devices; found by themselves if not given.

    Raises:
        ValueError: the machine has fewer devices than wanted.
    """
    have = devices() if names is None else list(names)
    if not wanted or not have:
        yield []
        return
    if wanted > len(have):
        raise ValueError(f"params.yaml: resources: the job asks for {wanted} GPUs and this machine has {len(have)}")
    shared(PLACE)
    held: dict[str, int] = {}
    while len(held) < wanted:
        for name, n in random.sample([(name, n) for name in have for n in range(per_gpu)], len(have) * per_gpu):
            if name not in held and len(held) < wanted and (lock := taken(PLACE / f"{name}.{n}")) is not None:
                held[name] = lock
        if len(held) < wanted:  # all or nothing, or two jobs that want two each could wait for one another
            release(held)
            time.sleep(pause * (0.5 + random.random()))
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(held)
    try:
        yield list(held)
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before
        release(held)


def shared(folder: Path) -> None:
    """A folder in which every user of the machine may make files, whatever the umask of the first."""
    folder.mkdir(exist_ok=True)
    if folder.lstat().st_uid == os.getuid():
        folder.chmod(0o1777)


def release(held: dict[str, int]) -> None:
    for lock in held.values():
        os.close(lock)
    held.clear()
