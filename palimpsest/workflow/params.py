"""params.yaml, read and checked before anything is built. Knows neither torch nor what a setting means.

Every complaint is one line: the key, what is allowed, what to do.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.workflow import demands, entries, paths, sheets, signatures
from palimpsest.workflow.complaints import ParamsError, known, least, listed, mapping, typed

FILE = Path("params.yaml")
TABLES = ("table1", "robustness", "crossed")  # docs/<name>-mini.md
GRIDS = ("grid", "phenomena", *TABLES)
MINI = "mini"  # the base that all of these but `grid` measure on
EXAMINED = ("prompts", "pool", "pairs", "reference", "scores")  # how a base is examined: what a protocol may say in place of the sections
SECTIONS = {*GRIDS, *EXAMINED, "bases", "protocols", "methods", "attacks", "report", "resources"}
GRID = ("attacks", "bases", "concepts", "methods", "seeds")
NAMES = {"concept": "[a-z0-9_]+", "method": "[a-z0-9.-]+", "attack": "[a-z0-9_.-]+", "base": "[a-z0-9-]+", "seed": "[0-9]+"}  # in paths
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
LEAST = {"steps": 1, "batch": 1, "images": 1, "others_on_disk": 0, "anchors": 0, "captions": 0, "seed": 0, "examples": 0}  # of these fields
MOST = {"seed": 4294}  # likewise: of a pool, whose pictures have the seeds from a million times this on
SEED = 2**32 - 1  # the last that torch tells from others on a CPU
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
MEASURED = ("objects", "clip_score", "features", "perceptual")  # scores that every table reads
VARIED = ("methods", "attacks")  # sections whose entries may differ between concepts and protocols
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
    params = sheets.parsed(file)
    check(params)
    return params


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
            listed(f"protocols.{name}.preserved", protocol["preserved"], PURPOSES)
        if protocol.get("presets", []) != []:
            listed(f"protocols.{name}.presets", protocol["presets"], sheets.recipes())
        for pattern, minutes in mapping(f"protocols.{name}.minutes", protocol.get("minutes", {})).items():
            typed(f"protocols.{name}.minutes.{pattern}", minutes, float)
        for section in [part for part in EXAMINED if part in protocol]:
            check_examined(section, f"protocols.{name}.{section}", protocol[section])
    for section in VARIED:
        for name, entry in mapping(section, params[section]).items():
            check_plugin(section, f"{section}.{name}", entry, name)
            check_under(params, section, name)
    check_names(params)
    demands.check(params)
    for section in GRIDS:
        check_grid(params, section)
    grid = params["grid"]
    for concept, base, section in itertools.product(grid["concepts"], grid["bases"], VARIED):
        for name in grid[section]:
            entries.plugin(params, section, name, concept, base)


def check_examined(section: str, key: str, said: Any) -> None:
    """One of the sections that a protocol may say anew, under the key where it stands."""
    if section in STAGES:
        check_fields(key, said, STAGES[section])
    elif section == "scores":
        for name, entry in mapping(key, said).items():
            check_plugin("scores", f"{key}.{name}", entry, name)
        for name in [name for name in MEASURED if name not in said]:
            raise ParamsError(f"params.yaml: {key}.{name} is missing, and every table reads it; add an entry of that name")
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
        fits(f"{key}.{field}", value, fields[field])


def fits(key: str, value: Any, kind: type) -> None:
    """The value of a field is of its type, not below its least and not above its most."""
    typed(key, value, kind)
    field = key.rpartition(".")[2]
    if field in LEAST:
        least(key, value, LEAST[field], MOST.get(field, float("inf")))


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
        fits(f"bases.{name}.{field}", value, BASE[field])
        if field in CHOICES:
            known(f"bases.{name}.{field}", [value], CHOICES[field])
    for field in ("path", "unet"):
        folder = base.get(field, "")
        if entries.nowhere(folder):
            raise ParamsError(f"params.yaml: bases.{name}.{field}: {folder} is not there; `git checkout {folder}` or name another folder")


def check_plugin(folder: str, key: str, entry: Any, name: str = "") -> None:
    """An entry `{of: file, preset: name, settings: {...}, for: {concept or kind: {...}}}` against the signature of the file's verb."""
    known(key, mapping(key, entry), ("of", "preset", "settings", *(("for", "under") if folder in VARIED else ())))
    of = entry.get("of", name)
    known(f"{key}.of" if "of" in entry else folder, [of], signatures.registry(folder))
    check_said(folder, of, key, entry)
    check_whole(folder, of, key, entries.resolved(entry, of))


def check_said(folder: str, of: str, key: str, entry: Mapping[str, Any]) -> None:
    """Preset, settings and `for` of an entry."""
    if "preset" in entry:
        known(f"{key}.preset", [entry["preset"]], sheets.presets(of))
    for part in (sheets.presets(of).get(entry.get("preset", ""), {}), entry):
        check_settings(folder, of, f"{key}.settings", part.get("settings", {}))
        for concept, settings in mapping(f"{key}.for", part.get("for", {})).items():
            known(f"{key}.for", [concept], [*sheets.KINDS, *sheets.concepts()])
            check_settings(folder, of, f"{key}.for.{concept}", settings)


def check_under(params: Mapping[str, Any], section: str, name: str) -> None:
    """What an entry of methods or attacks says under `under`, and what it is under every protocol."""
    key, entry = f"{section}.{name}.under", params[section][name]
    known(key, mapping(key, entry.get("under", {})), params["protocols"])
    for protocol in params["protocols"]:
        place, of, said = f"{key}.{protocol}", entry.get("of", name), entry.get("under", {}).get(protocol, {})
        known(place, mapping(place, said), ("preset", "settings", "for"))
        check_said(section, of, place, said)
        check_whole(section, of, place, entries.under(params, section, name, protocol))


def check_whole(folder: str, of: str, key: str, settings: Mapping[str, Any]) -> None:
    for argument, setting in signatures.settings(folder, of).items():
        if not setting.optional and argument not in settings:
            raise ParamsError(f"params.yaml: {key}.settings.{argument} is missing; palimpsest/{folder}/{of}.py says what it is")


def check_settings(folder: str, of: str, key: str, settings: Any) -> None:
    taken = signatures.settings(folder, of)
    known(key, mapping(key, settings), taken)
    for argument, value in settings.items():
        if not signatures.fits(value, taken[argument].annotation):
            kind = signatures.said(taken[argument].annotation)
            raise ParamsError(
                f"params.yaml: {key}.{argument}: {value!r} is not of type {kind}; palimpsest/{folder}/{of}.py says what it is"
            )


def check_names(params: Mapping[str, Any]) -> None:
    """Names stand in paths and in the patterns of the Snakefile."""
    named = {"concept": sheets.concepts(), **{axis: params[f"{axis}s"] for axis in ("method", "attack", "base")}}
    for axis, name in [(axis, name) for axis, names in named.items() for name in names]:
        if not isinstance(name, str) or not re.fullmatch(NAMES[axis], name) or (axis == "method" and name in paths.FOLDERS):
            key = paths.concept(name) if axis == "concept" else f"params.yaml: {axis}s.{name}"
            raise ParamsError(f"{key}: paths take names of {NAMES[axis]}, and {', '.join(paths.FOLDERS)} are no methods; call it otherwise")


def check_grid(params: Mapping[str, Any], section: str) -> None:
    """`grid` and those beside it: lists of names for every axis."""
    grid = mapping(section, params[section])
    known(section, grid, GRID)
    bases = params["bases"] if section == "grid" else [MINI]
    allowed = {**params, "concepts": sheets.concepts(), "seeds": grid.get("seeds"), "bases": bases}
    for axis in GRID:
        listed(f"{section}.{axis}", grid.get(axis), allowed[axis])
        for seed in grid[axis] if axis == "seeds" else ():
            least(f"{section}.seeds", seed, 0, SEED)
        if axis in ("methods", "attacks") and "none" not in grid[axis]:
            raise ParamsError(f"params.yaml: {section}.{axis} leaves out 'none', beside which everything is measured; add it")
    for base in grid["bases"]:
        for concept in grid["concepts"]:
            entries.detector(params, concept, base)
