"""The sheets of data/: concepts, presets, what is fetched. Knows what fields there are, and not what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from palimpsest.workflow import paths
from palimpsest.workflow.complaints import ParamsError, near

CONCEPTS = Path("data/concepts")
PRESETS = Path("data/presets")
EXTERNAL = Path("data/external.yaml")
FIELDS = {"kind", "words", "adjective", "anchor", "initialiser", "near", "sensitive", "detectors"}  # of a concept
KINDS = ("inappropriate", "object", "style")
VARYING = ("words", "anchor")  # fields that may differ between the judges of a concept: {mini: ..., papers: ...}


@cache
def said(file: Path, _: int) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def read(file: Path) -> dict[str, Any]:
    """What a file of YAML says, read once as long as it stands; nothing where there is none."""
    return said(file.absolute(), file.stat().st_mtime_ns) if file.exists() else {}


def presets(of: str) -> dict[str, Any]:
    """The entries of data/presets/<of>.yaml, by name; none where the plug-in has no such file."""
    return read(PRESETS / f"{of}.yaml")


def external() -> dict[str, dict[str, str]]:
    """What is fetched: place -> address, digest and how it is made (data/external.yaml)."""
    return read(EXTERNAL)


def concepts() -> list[str]:
    """Names of the concept files."""
    return sorted(file.stem for file in CONCEPTS.glob("*.yaml") if file.stem not in paths.RESERVED)


def concept(name: str) -> dict[str, Any]:
    """The fields of data/concepts/<name>.yaml, checked.

    Raises:
        ParamsError: there is no such concept, or a field is missing, unknown or not allowed.
    """
    file = Path(paths.concept(name))
    if name not in concepts():
        raise ParamsError(f"unknown concept {name!r}{near(name, concepts())}; {file} would add it")
    fields = dict(read(file))
    for field in sorted(FIELDS - set(fields)):
        raise ParamsError(f"{file}: {field} is missing; data/concepts/church.yaml shows what it is")
    for field in sorted(set(fields) - FIELDS):
        raise ParamsError(f"{file}: unknown {field!r}{near(field, sorted(FIELDS))}")
    if fields["kind"] not in KINDS:
        raise ParamsError(f"{file}: kind: unknown {fields['kind']!r}{near(fields['kind'], KINDS)}")
    for field in [field for field in VARYING if isinstance(fields[field], dict)]:
        for judges in sorted(set(fields["detectors"]) - set(fields[field])):
            raise ParamsError(f"{file}: {field} says nothing for {judges!r}, which `detectors` has; add it")
    return fields


def told(fields: Mapping[str, Any], judges: str) -> dict[str, Any]:
    """The fields of a concept as they hold on bases with these judges, without the judges themselves."""
    chosen = {name: fields[name][judges] for name in VARYING if isinstance(fields[name], dict)}
    return {name: chosen.get(name, value) for name, value in fields.items() if name != "detectors"}
