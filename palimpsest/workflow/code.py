"""Which files of ours a script runs, and what each does: its import closure and its syntax trees, read from the source.

Code counts by what it does: comments, layout, docstrings and the annotations of functions do not. Where somebody knows that a change
leaves results standing, `accepted.yaml` says so (scripts/accept.py), and the file counts as it did before.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.workflow import sheets

TOP = Path(__file__).parents[2]
PLUMBING = "palimpsest/workflow/"  # plumbing around a stage; not what it computes
ACCEPTED = TOP / "accepted.yaml"
SILENT = {"ctx", "kind", "type_comment", "annotation", "returns", "type_params"}  # fields that change nothing that runs


@cache
def parsed(text: str) -> ast.Module:
    """Its syntax tree, made once for what it imports and for what it does."""
    return ast.parse(text)


@cache
def imported(file: str) -> frozenset[str]:
    """Files of the package that a file imports by name, and those beside it that it names (`with_name("page.html")`)."""
    found = set()
    for node in ast.walk(parsed((TOP / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "with_name":
            beside = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            found |= {str(Path(file).with_name(name)) for name in beside}
            continue
        else:
            continue
        for name in names:
            stem = name.replace(".", "/")
            found |= {path for path in (f"{stem}.py", f"{stem}/__init__.py") if name.startswith("palimpsest.")}
    return frozenset(path for path in found if (TOP / path).is_file() and not path.startswith(PLUMBING))


def closure(*files: str) -> list[str]:
    """The files themselves and all that they import, in order of name."""
    seen: set[str] = set()
    todo = list(files)
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported(file) if file.endswith(".py") else []
    return sorted(seen)


def tree(node: Any) -> Any:
    """What a piece of syntax says, as nested lists; the same in every version of Python that can read it."""
    if isinstance(node, list):
        return [tree(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in SILENT and value is not None and value != []}
    if (
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    ):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([name, tree(value)] for name, value in sorted(fields.items()))]


def meaning(text: str, file: str) -> str:
    """Hash of what a text does: of its syntax tree if it is Python, of its characters otherwise."""
    said = repr(tree(parsed(text))) if file.endswith(".py") else text
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@cache
def accepted() -> dict[tuple[str, str], str]:
    """(file, hash now) -> hash that it counts as."""
    rows = sheets.loaded(ACCEPTED.read_text()) if ACCEPTED.exists() else None
    return {(row["file"], row["now"]): row["was"] for row in rows or []}


def counts_as(file: str, now: str) -> str:
    """The hash that results were made with, where a change from it was accepted."""
    seen = {now}
    while (was := accepted().get((file, now))) and was not in seen:
        now = was
        seen.add(now)
    return now


@cache
def does(file: str) -> str:
    """What a file of ours does, as a hash."""
    return counts_as(file, meaning((TOP / file).read_text(), file))


def all_of(*files: str) -> dict[str, str]:
    """What everything that the files run does, by file."""
    return {file: does(file) for file in closure(*files)}
