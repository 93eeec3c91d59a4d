"""File locks of the kernel: they end with their process, whatever ends it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time; others wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def taken(file: Path) -> int | None:
    """An open file with the lock on it, or nothing if another process has it. Every user may open the file, whoever made it.

    It is made and opened apart: Linux lets nobody open somebody else's file in a shared folder who would also make it.

    Raises:
        PermissionError: its owner made it with an older version, which kept it from others.
    """
    try:
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        lock = os.open(file, os.O_RDWR | os.O_NOFOLLOW)
    except PermissionError:
        said = f"{file} is closed to this user; ask its owner for `chmod a+rwx {file.parent}; chmod a+rw {file.parent}/*`"
        raise PermissionError(said) from None
    if os.fstat(lock).st_uid == os.getuid():
        os.fchmod(lock, 0o666)
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    os.close(lock)
    return None
