"""What settings a plug-in takes, read from its source without importing it: the signature is the schema."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest.workflow.complaints import ParamsError

PACKAGE = Path(__file__).parents[1]
VERBS = {"methods": "erase", "attacks": "attack", "scores": "score", "prompts": "prompts", "references": "pictures"}
LEAST = {"int": 0, "Count": 1}  # of whole numbers, by their annotation
GIVEN = {"seed", "original", "judge", "draw", "plain", "draws"}  # handed over by the scripts, not by params.yaml


class Setting(NamedTuple):
    """One keyword argument: its annotation as an expression, and whether it may be left out."""

    annotation: ast.expr
    optional: bool


def registry(folder: str) -> list[str]:
    """Names of the plug-ins in a folder."""
    return sorted(file.stem for file in (PACKAGE / folder).glob("*.py") if file.stem != "__init__")


@cache
def source(folder: str, name: str) -> ast.Module:
    return ast.parse((PACKAGE / folder / f"{name}.py").read_text())


@cache
def arguments(folder: str, name: str) -> dict[str, tuple[ast.arg, ast.expr | None]]:
    """The keyword-only arguments of the plug-in's verb, with their defaults."""
    verb = next(node for node in source(folder, name).body if isinstance(node, ast.FunctionDef) and node.name == VERBS[folder])
    return {argument.arg: (argument, default) for argument, default in zip(verb.args.kwonlyargs, verb.args.kw_defaults, strict=True)}


def settings(folder: str, name: str) -> dict[str, Setting]:
    """Those that params.yaml may set."""
    found = {key: both for key, both in arguments(folder, name).items() if key not in GIVEN}
    return {key: Setting(argument.annotation, default is not None) for key, (argument, default) in found.items() if argument.annotation}


def given(folder: str, name: str) -> set[str]:
    """Those that the scripts hand over."""
    return GIVEN & set(arguments(folder, name))


def defaults(folder: str, name: str) -> dict[str, Any]:
    """The default of every setting that has one."""
    found = {key: arguments(folder, name)[key][1] for key in settings(folder, name)}
    return {key: ast.literal_eval(default) for key, default in found.items() if default is not None}


@cache
def literal(folder: str, name: str, constant: str) -> Any:
    """The value of a constant of a plug-in's file, or None."""
    for node in source(folder, name).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=value) | ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value)
            ):
                if found == constant:
                    return ast.literal_eval(value)
    return None


def budget(attack: str) -> str:
    """The sentence BUDGET of an attack's file, with its settings in braces.

    Raises:
        ParamsError: there is none.
    """
    said = literal("attacks", attack, "BUDGET")
    if said is None:
        raise ParamsError(f"palimpsest/attacks/{attack}.py has no BUDGET; palimpsest/attacks/cce.py shows what it is")
    return said


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a value from YAML is of the annotated type. A whole number is a float, an int is not below 0 and a Count (types.py) not below
    1; true is no number."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name):
            kinds: dict[str, Any] = {"int": int, "Count": int, "str": str, "bool": bool, "float": (int, float)}
            return isinstance(value, kinds[name]) and (name == "bool" or not isinstance(value, bool)) and value >= LEAST.get(name, value)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return value in ast.literal_eval(choices) if isinstance(choices, ast.Tuple) else value == ast.literal_eval(choices)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(fits(item, inner) for item in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return isinstance(value, dict) and all(fits(k, key) and fits(v, inner) for k, v in value.items())
    raise TypeError(f"a setting may not be annotated {ast.unparse(annotation)}")


def said(annotation: ast.expr) -> str:
    """The type as people read it: `int from 1 | None`."""
    return re.sub(r"\b(int|Count)\b", lambda kind: f"int from {LEAST[kind[0]]}", ast.unparse(annotation))
