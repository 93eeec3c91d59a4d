"""params.yaml, read and checked before anything is built. Knows neither torch nor what a setting means.

Every complaint is one line: the key, what is allowed, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from palimpsest.workflow import demands, paths, sheets, signatures
from palimpsest.workflow.complaints import ParamsError, known, mapping, near, typed

FILE = Path("params.yaml")
TABLES = ("table1", "robustness", "crossed")  # docs/<name>-mini.md
GRIDS = ("grid", "phenomena", *TABLES)
EXAMINED = ("prompts", "pool", "pairs", "reference", "scores")  # how a base is examined: what a protocol may say in place of the sections
SECTIONS = {*GRIDS, *EXAMINED, "bases", "protocols", "methods", "attacks", "report", "resources"}
GRID = ("attacks", "bases", "concepts", "methods", "seeds")
BASE: dict[str, type] = {
    "path": str,
    "revision": str,
    "variant": str,
    "config": str,
    "family": str,
    "sampler": str,
    "channels_last": bool,
    "unet": str,
    "pool_from": str,
    "detectors": str,
    "protocol": str,
    "attention": str,
    "precision": str,
    "shareable": bool,
    "others_on_disk": int,
    "steps": int,
    "guidance": float,
    "batch": int,
    "compiled": bool,
}
CHOICES: dict[str, Sequence[str]] = {
    "attention": ("vanilla",),
    "precision": ("fp32", "bf16"),
    "family": signatures.registry("families"),
    "sampler": ("ddim", "pndm", "dpm", "lms", "euler", "flow"),
}
BASE_NEEDS = ("path", "detectors", "steps", "guidance", "batch")
STAGES: dict[str, dict[str, type]] = {
    "pool": {"images": int, "anchors": int, "captions": int, "seed": int},
    "pairs": {"images": int, "strength": float, "tries": int, "negative": str, "sampler": str},
}
REPORT: dict[str, type] = {"examples": int}
FOLDERS = {"reference": "references"}  # the folder of a section's plug-ins, where it is called otherwise
UNSAID: dict[str, dict[str, Any]] = {
    "pool": {"captions": 0, "seed": 0},
    "pairs": {"tries": 0, "negative": "concept", "sampler": "ddim"},
}  # what holds where a section does not say it
PURPOSES = ("other", "near")  # of prompts that do not name the concept
NEGATIVES = ("concept", "prompt", "none")  # what redrawn pictures are steered away from
SAMPLERS = ("ddim", "pndm")  # how they are redrawn


def load(file: Path = FILE) -> dict[str, Any]:
    """The checked settings.

    Raises:
        ParamsError: the file is missing, is no YAML, or says something that is not allowed.
    """
    if not file.exists():
        raise ParamsError(f"{file} is not there; run from the top folder of the project")
    try:
        params = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ParamsError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    check(params)
    return params


def examined(params: Mapping[str, Any], section: str, base: str) -> Any:
    """A section as it holds for a base: what the base's protocol says, where it says something, and else the section itself."""
    return protocol(params, base).get(section, params[section])


def protocol(params: Mapping[str, Any], base: str) -> Mapping[str, Any]:
    """What the protocol of a base says; nothing where the base names none."""
    return params["protocols"].get(params["bases"].get(base, {}).get("protocol"), {})


def check(params: Any) -> None:
    known("top level", mapping("top level", params), sorted(SECTIONS))
    for section in sorted(SECTIONS - set(params)):
        raise ParamsError(f"params.yaml: section {section!r} is missing; `git diff params.yaml` shows what was there")
    for name, base in mapping("bases", params["bases"]).items():
        check_base(name, base, mapping("protocols", params["protocols"]))
    check_fields("report", params["report"])
    for section in EXAMINED:
        check_examined(section, section, params[section])
    for name, protocol in mapping("protocols", params["protocols"]).items():
        known(f"protocols.{name}", mapping(f"protocols.{name}", protocol), (*EXAMINED, "presets", "minutes", "preserved"))
        if "preserved" in protocol:
            known(f"protocols.{name}.preserved", protocol["preserved"], PURPOSES)
        for pattern, minutes in mapping(f"protocols.{name}.minutes", protocol.get("minutes", {})).items():
            typed(f"protocols.{name}.minutes.{pattern}", minutes, float)
        for section in [part for part in EXAMINED if part in protocol]:
            check_examined(section, f"protocols.{name}.{section}", protocol[section])
    for section in ("methods", "attacks"):
        for name, entry in mapping(section, params[section]).items():
            check_plugin(section, f"{section}.{name}", entry, name)
            known(f"{section}.{name}.under", mapping(f"{section}.{name}.under", entry.get("under", {})), params["protocols"])
            for protocol in params["protocols"]:
                check_plugin(section, f"{section}.{name}.under.{protocol}", entry_under(params, section, name, protocol), name)
    for name in params["methods"]:
        if name in paths.FOLDERS:
            raise ParamsError(f"params.yaml: methods.{name}: results/<concept>/{name} is the place of something else; call it otherwise")
    demands.check(params)
    for section in GRIDS:
        check_grid(params, section)


def check_examined(section: str, key: str, said: Any) -> None:
    """One of the sections that a protocol may say anew, under the key where it stands."""
    if section in STAGES:
        check_fields(key, said, STAGES[section])
    elif section == "scores":
        for name, entry in mapping(key, said).items():
            check_plugin("scores", f"{key}.{name}", entry, name)
    else:
        check_plugin(FOLDERS.get(section, section), key, said)
    if section == "pairs":
        check_pairs(key, {**UNSAID["pairs"], **said})


def check_fields(key: str, said: Any, fields: Mapping[str, type] = REPORT) -> None:
    known(key, mapping(key, said), fields)
    for field, kind in fields.items():
        if field not in {**UNSAID.get(key.rpartition(".")[2], {}), **said}:
            raise ParamsError(f"params.yaml: {key}.{field} is missing; write a {kind.__name__} there")
    for field, value in said.items():
        typed(f"{key}.{field}", value, fields[field])


def check_pairs(key: str, pairs: Mapping[str, Any]) -> None:
    if pairs["tries"] < 0:
        raise ParamsError(f"params.yaml: {key}.tries: {pairs['tries']} is no number of tries; write 1 or more, or 0 to take what comes")
    if not 0 < pairs["strength"] <= 1:
        raise ParamsError(f"params.yaml: {key}.strength: {pairs['strength']} is no share of the schedule; write more than 0 and at most 1")
    known(f"{key}.negative", [pairs["negative"]], NEGATIVES)
    known(f"{key}.sampler", [pairs["sampler"]], SAMPLERS)


def check_base(name: str, base: Any, protocols: Mapping[str, Any]) -> None:
    known(f"bases.{name}", mapping(f"bases.{name}", base), BASE)
    for field in BASE_NEEDS:
        if field not in base:
            raise ParamsError(f"params.yaml: bases.{name}.{field} is missing; write a {BASE[field].__name__} there")
    if "protocol" in base:
        known(f"bases.{name}.protocol", [base["protocol"]], protocols)
    for field, value in base.items():
        typed(f"bases.{name}.{field}", value, BASE[field])
        if field in CHOICES:
            known(f"bases.{name}.{field}", [value], CHOICES[field])
    for field in ("path", "unet"):
        folder = base.get(field, "")
        if folder.startswith(("data/", "./", "/")) and not Path(folder).exists():
            raise ParamsError(f"params.yaml: bases.{name}.{field}: {folder} is not there; `git checkout {folder}` or name another folder")


def check_plugin(folder: str, key: str, entry: Any, name: str = "") -> None:
    """An entry `{of: file, preset: name, settings: {...}, for: {concept or kind: {...}}}` against the signature of the file's verb."""
    known(key, mapping(key, entry), ("of", "preset", "settings", "for", *(["under"] if folder in ("methods", "attacks") else [])))
    of = entry.get("of", name)
    known(f"{key}.of" if "of" in entry else folder, [of], signatures.registry(folder))
    if "preset" in entry:
        known(f"{key}.preset", [entry["preset"]], sheets.presets(of))
    for part in (sheets.presets(of).get(entry.get("preset", ""), {}), entry):
        check_settings(folder, of, f"{key}.settings", part.get("settings", {}))
        for concept, settings in mapping(f"{key}.for", part.get("for", {})).items():
            known(f"{key}.for", [concept], [*sheets.KINDS, *sheets.concepts()])
            check_settings(folder, of, f"{key}.for.{concept}", settings)
    for argument, setting in signatures.settings(folder, of).items():
        if not setting.optional and argument not in resolved(entry, of):
            raise ParamsError(f"params.yaml: {key}.settings.{argument} is missing; palimpsest/{folder}/{of}.py says what it is")


def resolved(entry: Mapping[str, Any], of: str, concept: str = "") -> dict[str, Any]:
    """The settings of an entry for a concept: its preset's, what that says for the concept's kind and for itself, and its own likewise."""
    kind = sheets.concept(concept)["kind"] if concept else ""
    settings: dict[str, Any] = {}
    for part in (sheets.presets(of).get(entry.get("preset", ""), {}), entry):
        said = part.get("for", {})
        settings |= {**part.get("settings", {}), **said.get(kind, {}), **said.get(concept, {})}
    return settings


def check_settings(folder: str, of: str, key: str, settings: Any) -> None:
    import ast

    taken = signatures.settings(folder, of)
    known(key, mapping(key, settings), taken)
    for argument, value in settings.items():
        if not signatures.fits(value, taken[argument].annotation):
            kind = ast.unparse(taken[argument].annotation)
            raise ParamsError(
                f"params.yaml: {key}.{argument}: {value!r} is not of type {kind}; palimpsest/{folder}/{of}.py says what it is"
            )


def check_grid(params: Mapping[str, Any], section: str) -> None:
    """`grid` and those beside it: lists of names for every axis."""
    grid = mapping(section, params[section])
    known(section, grid, GRID)
    allowed = {"concepts": sheets.concepts(), **{axis: list(params[axis]) for axis in ("methods", "attacks", "bases")}}
    for axis in GRID:
        if not isinstance(grid.get(axis), list) or not grid[axis]:
            raise ParamsError(f"params.yaml: {section}.{axis} is no list of names; write `{axis}: [...]` with at least one")
        if axis == "seeds":
            for seed in grid[axis]:
                typed(f"{section}.seeds", seed, int)
        else:
            known(f"{section}.{axis}", grid[axis], allowed[axis])
        if axis in ("methods", "attacks") and "none" not in grid[axis]:
            raise ParamsError(f"params.yaml: {section}.{axis} leaves out 'none', beside which everything is measured; add it")
    for base in grid["bases"]:
        for concept in grid["concepts"]:
            detector(params, concept, base)


def detector(params: Mapping[str, Any], concept: str, base: str) -> dict[str, Any]:
    """What shows a concept in pictures of a base: the column `score`, its `classes`, `threshold`. With pairs.tries it judges pairs too."""
    kind, detectors, file = params["bases"][base]["detectors"], sheets.concept(concept)["detectors"], paths.concept(concept)
    if kind not in detectors:
        raise ParamsError(f"{file}: detectors has no {kind!r}, which bases.{base} asks for; add it")
    score, scores = detectors[kind]["score"], examined(params, "scores", base)
    if examined(params, "pairs", base).get("tries", 0) and score not in scores:
        raise ParamsError(
            f"params.yaml: pairs.tries: {file} judges by {score!r}, and no entry of `scores` is called so{near(score, scores)}; "
            f"add it, or set pairs.tries to 0"
        )
    return detectors[kind]


def entry_under(params: Mapping[str, Any], section: str, name: str, protocol: str | None) -> Mapping[str, Any]:
    """An entry of methods or attacks as it holds under a protocol: where that names `presets`, the first of them that the plug-in has takes
    the place of the entry's own settings, and what the entry says under `under` stands on top."""
    entry = params[section][name]
    if protocol is None or "presets" not in params["protocols"][protocol]:
        return entry
    of = entry.get("of", name)
    named = [preset for preset in params["protocols"][protocol]["presets"] if preset in sheets.presets(of)]
    return {"of": of, **({"preset": named[0]} if named else {}), **entry.get("under", {}).get(protocol, {})}


def plugin(params: Mapping[str, Any], section: str, name: str, concept: str = "", base: str = "") -> tuple[str, dict[str, Any]]:
    """The file and the settings of an entry of methods or attacks for a base, with what it says for this concept on top.

    Raises:
        ParamsError: the entry is another one with settings of its own, which do not count under the base's protocol.
    """
    by = params["bases"].get(base, {}).get("protocol")
    said, entry = params[section][name], entry_under(params, section, name, by)
    of = entry.get("of", name)
    if of != name and "presets" in protocol(params, base) and by not in said.get("under", {}):
        raise ParamsError(
            f"params.yaml: {section}.{name} would be {of} on {base}: presets of the protocol {by} stand in place of its settings; "
            f"write what is its own under `under: {{{by}: {{settings: ...}}}}`"
        )
    return of, resolved(entry, of, concept)
