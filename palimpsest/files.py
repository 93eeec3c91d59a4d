"""A file appears whole or not at all, and never by writing into one that exists: that may be a link into DVC's cache."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A place beside `file` to write to; it takes the file's name when the block ends well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}.part")  # machines may share the folder
    yield part
    os.replace(part, file)


def write_text(file: Path, text: str) -> None:
    with whole(file) as part:
        part.write_text(text)


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False, default=asdict) + "\n")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def md5(file: Path) -> str:
    """The hash by which DVC knows a file."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
