"""What a base needs to be examined, looked for before anything is drawn: packages, files, models. One line says what is missing."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest import missing
from palimpsest.workflow import entries, sheets, signatures, undefined
from palimpsest.workflow.complaints import ParamsError
from palimpsest.workflow.plan import texts

NOBODY: Mapping[str, str] = {}  # a job without method and attack
FOLDERS = {"prompts": "prompts", "reference": "references", "scores": "scores"}
CARDS = ("model_index.json", "config.json")  # by which a model is known on the hub


def check(settings: Mapping[str, Any], base: str, names: Mapping[str, str] = NOBODY) -> None:
    """Whether everything is here with which a base is drawn, asked and judged, and what the method and the attack of a job's names open.

    Raises:
        ParamsError: something is not; the line names what needs it and how to get it.
    """
    for section, folder in FOLDERS.items():
        said = entries.examined(settings, section, base)
        for name, entry in said.items() if section == "scores" else [(section, said)]:
            for package in absent(folder, entry.get("of", name)):
                raise ParamsError(f"{key(section, name)} of {base} needs {missing.package(package)}")
            remote = "base_url" in entry.get("settings", {})  # its model lies on another machine
            for text in () if remote else texts(entry):
                found(f"{key(section, name)} of {base}", text)
    for who, kind, text in opened(settings, base, names):
        found(f"{who} of {base}", text)
        if kind == "Weights":
            model(f"{who} of {base}", text, None)
    said = settings["bases"][base]
    model(f"bases.{base}", said.get("config", said["path"]), said.get("revision"))


def opened(settings: Mapping[str, Any], base: str, names: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Files and models that the method and the attack of a job open, each behind who does and what its setting is."""
    for axis, section in undefined.AXES.items():
        if axis in names and not undefined.reason(settings, {axis: names[axis], "base": base}):
            of, chosen = entries.plugin(settings, section, names[axis], names["concept"], base)
            for _, kind, text in signatures.places(section, of, chosen):
                yield f"{section}.{names[axis]}", kind, text


def key(section: str, name: str) -> str:
    return f"scores.{name}" if section == "scores" else section


@cache
def absent(folder: str, of: str) -> tuple[str, ...]:
    """Packages that a plug-in imports, at its top or in a function, and that cannot be found."""
    nodes = list(ast.walk(signatures.source(folder, of)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    tops = dict.fromkeys(name.split(".")[0] for name in names)
    return tuple(top for top in tops if top not in sys.stdlib_module_names and importlib.util.find_spec(top) is None)


def found(who: str, text: str) -> None:
    """Whether a file or a model that a setting names can be had."""
    if text in sheets.external() and not Path(text).exists():
        raise ParamsError(f"{who} needs {text}, which is not there; `snakemake --cores 1 {text}` fetches it")
    if entries.nowhere(text):
        raise ParamsError(f"{who} needs {text}, which is not there; put it there, or name another in params.yaml")
    if text.count("/") == 1 and " " not in text and not Path(text).exists():
        model(who, text, None)


@cache
def model(who: str, name: str, revision: str | None) -> None:
    """Whether a model lies in a folder, in the cache of the hub, or on the hub itself, where it may be gated."""
    if Path(name).exists():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(name, card, revision=revision), str) for card in CARDS):
        return
    try:
        HfApi().auth_check(name)
        HfApi().model_info(name, revision=revision, timeout=20)
    except Exception as error:  # of the hub's client, or of what it speaks through
        at = f" at {revision}" if revision else ""
        raise ParamsError(f"{who} needs {name}{at}, which {missing.model(error)}") from None
