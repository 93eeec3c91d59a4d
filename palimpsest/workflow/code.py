"""Which files of ours a script runs: its import closure, read from the source, so that a change of code reruns what uses it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

TOP = Path(__file__).parents[2]
PLUMBING = "palimpsest/workflow/"  # plumbing around a stage; not what it computes


@cache
def imported(file: str) -> frozenset[str]:
    """Files of the package that a file imports by name."""
    found = set()
    for node in ast.walk(ast.parse((TOP / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            stem = name.replace(".", "/")
            found |= {path for path in (f"{stem}.py", f"{stem}/__init__.py") if name.startswith("palimpsest.") and (TOP / path).is_file()}
    return frozenset(path for path in found if not path.startswith(PLUMBING))


def closure(*files: str) -> list[str]:
    """The files themselves and all that they import, in order of name."""
    seen: set[str] = set()
    todo = list(files)
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported(file)
    return sorted(seen)
