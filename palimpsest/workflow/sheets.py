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
FIELDS: dict[str, type] = {  # of a concept
    "kind": str,
    "words": list,
    "adjective": str,
    "anchor": str,
    "initialiser": str,
    "near": list,
    "sensitive": bool,
    "detectors": dict,
}
JUDGE: dict[str, type] = {"score": str, "classes": list, "take": str, "threshold": float, "readings": dict}  # of a detector
NEEDED = ("score", "classes")  # of these
TAKES = ("sum", "max")
KINDS = ("inappropriate", "object", "style")
VARYING = ("words", "anchor")  # fields that may differ between the judges of a concept: {mini: ..., papers: ...}


def loaded(text: str) -> Any:
    """What a text of YAML says, read by libyaml where that is there, several times faster.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def parsed(file: Path) -> Any:
    """What a file of YAML says.

    Raises:
        ParamsError: it is no YAML.
    """
    try:
        return loaded(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{file} is no YAML: {' '.join(str(error).split())}") from None


@cache
def said(file: Path, *_: object) -> dict[str, Any]:
    fields = parsed(file)
    if not isinstance(fields, dict):
        raise ParamsError(f"{file}: no mapping; write `key: value` lines there, or take the file away")
    return fields


def read(file: Path) -> dict[str, Any]:
    """What a file of YAML says, read once as long as it stands; nothing where there is none."""
    return said(file, Path.cwd(), file.stat().st_mtime_ns) if file.exists() else {}


def presets(of: str) -> dict[str, Any]:
    """The entries of data/presets/<of>.yaml, by name; none where the plug-in has no such file."""
    file = PRESETS / f"{of}.yaml"
    for name in [name for name, entry in read(file).items() if not isinstance(entry, dict)]:
        raise ParamsError(f"{file}: {name}: no mapping; write `{name}: {{}}` where it says nothing")
    return read(file)


def recipes() -> list[str]:
    """The names of all presets, whatever they are for."""
    return sorted({name for file in PRESETS.glob("*.yaml") for name in presets(file.stem)})


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
    for field in sorted(set(FIELDS) - set(fields)):
        raise ParamsError(f"{file}: {field} is missing; data/concepts/church.yaml shows what it is")
    for field in sorted(set(fields) - set(FIELDS)):
        raise ParamsError(f"{file}: unknown {field!r}{near(field, sorted(FIELDS))}")
    if fields["kind"] not in KINDS:
        raise ParamsError(f"{file}: kind: unknown {fields['kind']!r}{near(fields['kind'], KINDS)}")
    for field, kind in FIELDS.items():
        varying = field in VARYING and isinstance(fields[field], dict)
        for key, value in fields[field].items() if varying else [("", fields[field])]:
            check_field(f"{file}: {field}{key and '.'}{key}", value, kind, filled=field != "near")
    for judges, judge in fields["detectors"].items():
        check_judge(f"{file}: detectors.{judges}", judge)
    for field in [field for field in VARYING if isinstance(fields[field], dict)]:
        for judges in sorted(set(fields["detectors"]) - set(fields[field])):
            raise ParamsError(f"{file}: {field} says nothing for {judges!r}, which `detectors` has; add it")
    return fields


def check_judge(key: str, judge: Any) -> None:
    """A detector: what it has, and nothing that nobody reads."""
    check_field(key, judge, dict)
    for field in sorted({*NEEDED, *judge}):
        if field not in JUDGE:
            raise ParamsError(f"{key}: unknown {field!r}{near(field, sorted(JUDGE))}")
        check_field(f"{key}.{field}", judge.get(field), JUDGE[field])
    if judge.get("take", TAKES[0]) not in TAKES:
        raise ParamsError(f"{key}.take: unknown {judge['take']!r}{near(judge['take'], TAKES)}")
    for name, classes in judge.get("readings", {}).items():
        check_field(f"{key}.readings.{name}", classes, list)


def check_field(key: str, value: Any, kind: type, filled: bool = True) -> None:
    """A field of a sheet; lists are of words."""
    words = kind is not list or (isinstance(value, list) and all(isinstance(word, str) for word in value))
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not right or not words or (kind not in (bool, float) and filled and not value):
        forms = {list: "[...] with words in it", dict: "`key: value` lines", bool: "true or false", float: "a number"}
        form = forms.get(kind, "a word or words")
        raise ParamsError(f"{key}: {value!r} does not fit; write {form} there, as data/concepts/church.yaml has it")


def told(fields: Mapping[str, Any], judges: str) -> dict[str, Any]:
    """The fields of a concept as they hold on bases with these judges, without the judges themselves."""
    chosen = {name: fields[name][judges] for name in VARYING if isinstance(fields[name], dict)}
    return {name: chosen.get(name, value) for name, value in fields.items() if name != "detectors"}
