"""What settings a plug-in takes, read from its source without importing it: the signature is the schema."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest.workflow.complaints import ParamsError

PACKAGE = Path(__file__).parents[1]
VERBS = {"methods": "erase", "attacks": "attack", "scores": "score", "prompts": "prompts", "references": "pictures"}
GIVEN = {"seed", "original", "judge", "draw", "plain", "draws"}  # handed over by the scripts, not by params.yaml


class Span(NamedTuple):
    """What a number may be: its type and its bounds in words, the least and the most."""

    said: str
    least: float
    most: float = float("inf")


TINY = sys.float_info.min  # the least above 0
NUMBERS = {  # by their annotation (types.py)
    "int": Span("int from 0", 0),
    "Count": Span("int from 1", 1),
    "Timestep": Span("int from 0 to 999", 0, 999),
    "Timesteps": Span("int from 1 to 1000", 1, 1000),
    "float": Span("float", float("-inf")),
    "Positive": Span("float above 0", TINY),
    "NotNegative": Span("float from 0", 0),
    "Share": Span("float from 0 to 1", 0, 1),
    "Portion": Span("float above 0, at most 1", TINY, 1),
}
PLACES = {"File": "file", "Weights": "folder or name on the hub"}  # texts that are not free, likewise


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
    """The default of every setting that has one, which may be a constant of the file."""
    found = {key: arguments(folder, name)[key][1] for key in settings(folder, name)}
    return {
        key: literal(folder, name, default.id) if isinstance(default, ast.Name) else ast.literal_eval(default)
        for key, default in found.items()
        if default is not None
    }


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


def budget(attack: str, chosen: Mapping[str, Any]) -> str:
    """The sentence BUDGET of an attack's file, with its settings in braces filled in. Where there are several, the first whose key holds: a
    setting that is set, as `stop_early`, or set so, as `form: soft`, or "".

    Raises:
        ParamsError: there is none.
    """
    said, whole = literal("attacks", attack, "BUDGET"), {**defaults("attacks", attack), **chosen}
    if said is None:
        raise ParamsError(f"palimpsest/attacks/{attack}.py has no BUDGET; palimpsest/attacks/cce.py shows what it is")
    sentences = said if isinstance(said, dict) else {"": said}
    so = {key for name, value in whole.items() for key in (name if value else "", f"{name}: {value}")}
    return next(sentence for key, sentence in sentences.items() if key in {"", *so}).format(**whole)


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a value from YAML is of the annotated type. A whole number is a float; true is no number, and .nan is out of all bounds."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if name in NUMBERS:
            span = NUMBERS[name]
            number = isinstance(value, int if span.said.startswith("int") else (int, float)) and not isinstance(value, bool)
            return number and span.least <= value <= span.most
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id=name) if name == "str" or name in PLACES:
            return isinstance(value, str)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return value in ast.literal_eval(choices) if isinstance(choices, ast.Tuple) else value == ast.literal_eval(choices)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(fits(item, inner) for item in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return isinstance(value, dict) and all(fits(k, key) and fits(v, inner) for k, v in value.items())
    raise TypeError(f"a setting may not be annotated {ast.unparse(annotation)}")


def said(annotation: ast.expr) -> str:
    """The type as people read it: `int from 1 | None`."""
    words = {name: span.said for name, span in NUMBERS.items()} | PLACES
    return re.sub(r"\b\w+\b", lambda name: words.get(name[0], name[0]), ast.unparse(annotation))


def places(folder: str, name: str, chosen: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What a plug-in opens with these settings, defaults included: the setting, its annotation, and the file, folder or model."""
    whole = {**defaults(folder, name), **chosen}
    for key, setting in settings(folder, name).items():
        for kind in sorted(PLACES.keys() & set(ast.unparse(setting.annotation).split(" | "))):
            if whole.get(key):
                yield key, kind, whole[key]
