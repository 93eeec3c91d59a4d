"""What the entries of params.yaml are for a concept and on a base: preset, settings, `for`, `under` and protocol, one on top of the other.

Takes checked settings (params.py); what can only be seen where all comes together is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palimpsest.workflow import jobs, paths, sheets, signatures, undefined
from palimpsest.workflow.complaints import ParamsError, near

LOCAL = ("data/", "./", "../", "/")  # how a path begins that no name on the hub can be
COUNTS = {"pool": "images", "anchor": "anchors"}  # the field of `pool` that says how many pictures of a role are drawn


def examined(params: Mapping[str, Any], section: str, base: str) -> Any:
    """A section as it holds for a base: what the base's protocol says, where it says something, and else the section itself."""
    return protocol(params, base).get(section, params[section])


def place(params: Mapping[str, Any], section: str, base: str) -> str:
    """The key where a section stands as it holds for a base."""
    return f"protocols.{params['bases'][base]['protocol']}.{section}" if section in protocol(params, base) else section


def protocol(params: Mapping[str, Any], base: str) -> Mapping[str, Any]:
    """What the protocol of a base says; nothing where the base names none."""
    return params["protocols"].get(params["bases"].get(base, {}).get("protocol"), {})


def resolved(entry: Mapping[str, Any], of: str, concept: str = "") -> dict[str, Any]:
    """The settings of an entry for a concept: its preset's, what that says for the concept's kind and for itself, and its own likewise."""
    kind = sheets.concept(concept)["kind"] if concept else ""
    settings: dict[str, Any] = {}
    for part in (sheets.presets(of).get(entry.get("preset", ""), {}), entry):
        said = part.get("for", {})
        settings |= {**part.get("settings", {}), **said.get(kind, {}), **said.get(concept, {})}
    return settings


def under(params: Mapping[str, Any], section: str, name: str, protocol: str | None, concept: str = "") -> dict[str, Any]:
    """The settings of an entry of methods or attacks under a protocol: where that names `presets`, the first of them that the plug-in has
    takes the place of the entry's own settings, and what the entry says under `under` stands on top."""
    entry, presets = params[section][name], params["protocols"].get(protocol, {}).get("presets")
    of, said = entry.get("of", name), entry.get("under", {}).get(protocol, {})
    if presets is not None:
        entry = {"preset": next((preset for preset in presets if preset in sheets.presets(of) and "preset" not in said), "")}
    return resolved(entry, of, concept) | resolved(said, of, concept)


def plugin(params: Mapping[str, Any], section: str, name: str, concept: str = "", base: str = "") -> tuple[str, dict[str, Any]]:
    """The file and the settings of an entry of methods or attacks for a base, with what it says for this concept on top.

    Raises:
        ParamsError: the entry is another one with settings of its own, which do not count under the base's protocol; or it opens what is
            not there, or learns from more pictures than are drawn.
    """
    by, said = params["bases"].get(base, {}).get("protocol"), params[section][name]
    of = said.get("of", name)
    if of != name and "presets" in protocol(params, base) and by not in said.get("under", {}):
        raise ParamsError(
            f"params.yaml: {section}.{name} would be {of} on {base}: presets of the protocol {by} stand in place of its settings; "
            f"write what is its own under `under: {{{by}: {{settings: ...}}}}`"
        )
    chosen = under(params, section, name, by, concept)
    if base and not undefined.reason(params, {section.removesuffix("s"): name, "base": base}):
        check_places(section, name, of, chosen)
        check_pictures(params, section, name, of, chosen, base)
    return of, chosen


def check_places(section: str, name: str, of: str, chosen: Mapping[str, Any]) -> None:
    """Files and folders that an entry opens are there, or are to be fetched. Of models on the hub ready.py speaks, once a job begins."""
    for setting, kind, text in signatures.places(section, of, chosen):
        if text not in sheets.external() and (nowhere(text) or (kind == "File" and not Path(text).exists())):
            raise ParamsError(f"params.yaml: {section}.{name}.settings.{setting}: {text} is not there; put it there, or name another")


def check_pictures(params: Mapping[str, Any], section: str, name: str, of: str, chosen: Mapping[str, Any], base: str) -> None:
    """As many pictures of each role are drawn as PICTURES of the plug-in's file says, by a number or by a setting."""
    whole, source = {**signatures.defaults(section, of), **chosen}, jobs.pool_of(base, params)
    for role, need in (signatures.literal(section, of, "PICTURES") or {}).items():
        key, drawn = f"{place(params, 'pool', source)}.{COUNTS[role]}", examined(params, "pool", source)[COUNTS[role]]
        wanted, remedy = (whole[need], f", or lower its {need}") if need in whole else (need, "")
        if drawn < wanted:
            raise ParamsError(f"params.yaml: {key}: {drawn} are too few for {name} on {base}; write {wanted} or more{remedy}")


def detector(params: Mapping[str, Any], concept: str, base: str) -> dict[str, Any]:
    """What shows a concept in pictures of a base: the column `score`, its `classes`, `threshold`."""
    kind, detectors, file = params["bases"][base]["detectors"], sheets.concept(concept)["detectors"], paths.concept(concept)
    if kind not in detectors:
        raise ParamsError(f"{file}: detectors has no {kind!r}, which bases.{base} asks for; add it")
    score, scores = detectors[kind]["score"], examined(params, "scores", base)
    if score not in scores:
        key = place(params, "scores", base)
        raise ParamsError(f"params.yaml: {key}: {file} judges {base} by {score!r}, and no entry is called so; add it{near(score, scores)}")
    return detectors[kind]


def nowhere(text: str) -> bool:
    """Whether a text is the path of something that is not there, and that is no name on the hub."""
    return text.startswith(LOCAL) and not Path(text).exists()
