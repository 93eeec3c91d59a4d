"""What a job reads besides the results of other jobs: its settings, its concept, what its code does, the files that it names.

One small JSON for all jobs that read the same. A job is stale when its plan or the result of another job has changed, and scripts
take everything from it: what does not stand in the plan cannot have an influence. Of a base, `batch` and `compiled` stand in none,
since they change a picture by rounding at most, as another machine does, nor `shareable`, which only the page asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.files import md5, sha256, write_json, write_text
from palimpsest.workflow import code, entries, jobs, params, paths, sheets, signatures

Settings = Mapping[str, Any]
MODEL = ("path", "revision", "variant", "config", "family", "sampler", "channels_last", "unet", "attention", "precision")
SAMPLER = ("steps", "guidance")
READS = {  # stage -> what its plan holds
    "gen_prompts": ("concept", "prompts"),
    "gen_image_pool": ("base", "sampler", "pool"),
    "sdedit_pairs": ("base", "sampler", "pairs"),
    "gen_reference": ("reference", "scores"),
    "erase": ("concept", "base", "method"),
    "attack": ("concept", "base", "attack"),
    "generate": ("base", "sampler", "others_on_disk"),
    "score": ("scores", "others_on_disk"),
    "report": ("table",),
}


def plugin(settings: Settings, section: str, name: str, names: Mapping[str, str]) -> dict[str, Any]:
    params.known(section, [name], settings[section])
    of, chosen = entries.plugin(settings, section, name, names["concept"], names["base"])
    return {"of": of, "settings": chosen}


def asked(entry: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """An entry of a section that says the same for every concept."""
    of = entry.get("of", name)
    return {"of": of, "settings": entries.resolved(entry, of)}


def part(name: str, names: Mapping[str, str], settings: Settings) -> Any:
    """One part of a plan."""
    if name in ("concept", "base", "sampler", "others_on_disk"):
        params.known("bases", [names["base"]], settings["bases"])
        base = settings["bases"][names["base"]]
    if name in params.EXAMINED:
        section = entries.examined(settings, name, names["base"])
    match name:
        case "concept":
            classes = entries.detector(settings, names["concept"], names["base"])["classes"]  # says so where the base has no judge of it
            fields = sheets.told(sheets.concept(names["concept"]), settings["bases"][names["base"]]["detectors"])
            return {"name": names["concept"], **fields, "classes": classes}
        case "base":
            return {key: base[key] for key in MODEL if key in base}
        case "sampler":
            return {key: base[key] for key in SAMPLER}
        case "others_on_disk":
            return base.get(name)
        case "method":
            return plugin(settings, "methods", names["method"], names)
        case "attack":
            return plugin(settings, "attacks", names["attack"], names)
        case "scores":
            return {score: asked(entry, score) for score, entry in section.items()}
        case "prompts" | "reference":
            return asked(section)
        case "table":
            grid = settings["grid"]
            judged = {base: entries.detector(settings, names["concept"], base) for base in grid["bases"]}
            allowed = {base: budgets(settings, grid["attacks"], names["concept"], base) for base in grid["bases"]}
            told = {base: entries.protocol(settings, base) for base in grid["bases"]}
            preserved = {base: said["preserved"] for base, said in told.items() if "preserved" in said}
            kind = sheets.concept(names["concept"])["kind"]
            made = {"kind": kind, "detectors": judged, "seeds": grid["seeds"], "attacks": allowed}
            return made | ({"preserved": preserved} if preserved else {})
        case "pairs" | "pool":  # what changes nothing is left out
            return {key: value for key, value in section.items() if value != params.UNSAID[name].get(key)}
    return section


def budgets(settings: Settings, attacks: Sequence[str], concept: str, base: str) -> dict[str, str]:
    """What each attack may do, in words."""
    taken = {name: entries.plugin(settings, "attacks", name, concept, base) for name in attacks}
    return {name: signatures.budget(of, chosen) for name, (of, chosen) in taken.items()}


def gate(names: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """What says whether a redrawn picture still shows the concept: its detector, and the score that this reads."""
    detector = entries.detector(settings, names["concept"], names["base"])
    score = detector["score"]
    return {"detector": detector, "scores": {score: asked(entries.examined(settings, "scores", names["base"])[score], score)}}


FOLDERS = {"method": "methods", "attack": "attacks", "scores": "scores", "prompts": "prompts", "reference": "references"}


def plugins(parts: Mapping[str, Any]) -> Iterator[str]:
    """The plug-in files that a plan names."""
    if "base" in parts:
        yield f"palimpsest/families/{parts['base'].get('family', 'sd')}.py"
    for name, folder in FOLDERS.items():
        if name in parts:
            for entry in parts[name].values() if name == "scores" else (parts[name],):
                yield f"palimpsest/{folder}/{entry['of']}.py"


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from texts(inner)


@cache
def content(place: str) -> str:
    """Hash of a file or a folder of weights; of a folder that DVC tracks, what DVC says of it, and of what is fetched, what is to come."""
    if place in sheets.external():
        return hashlib.sha256(json.dumps(sheets.external()[place], sort_keys=True).encode()).hexdigest()[:16]
    path, tracked = Path(place), Path(f"{place}.dvc")
    if tracked.exists():
        return sha256(tracked)[:16]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    before = dict(memo())
    listed = "".join(f"{file.relative_to(path)} {remembered(file)}\n" for file in files)
    if memo() != before:
        write_json(MEMO, memo())
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


MEMO = Path("work/hashes.json")
HISTORY = Path("work/plans")


@cache
def memo() -> dict[str, list]:
    try:
        return json.loads(MEMO.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def remembered(file: Path) -> str:
    """sha256 of a file, taken again only when its size or its time has changed."""
    seen = file.stat()
    key = [seen.st_size, seen.st_mtime_ns]
    found = memo().get(str(file), [0, 0, ""])
    if found[:2] != key:
        memo()[str(file)] = [*key, sha256(file)]
    return memo()[str(file)][2]


def asked_of(stage: str, names: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """The settings that a job reads, by what they are about."""
    parts = {name: said for name in READS[stage] if (said := part(name, names, settings)) is not None}
    if stage == "score" and "others_on_disk" in parts:  # it draws the others
        parts |= {name: part(name, names, settings) for name in ("base", "sampler")}
    if "tries" in parts.get("pairs", {}) or "captions" in parts.get("pool", {}):  # they look at pictures
        parts |= gate(names, settings)
    if stage == "attack" and {"draw", "judge"} & signatures.given("attacks", parts["attack"]["of"]):  # an attack that looks at pictures
        parts |= {"sampler": part("sampler", names, settings), **gate(names, settings)}
    return parts


def fetched(job: jobs.Job, settings: Settings) -> list[str]:
    """What a job waits for of the things that are fetched: all that its base is examined with, so that none fails behind hours of work."""
    base = job.names.get("base")
    said = [entries.examined(settings, section, base) for section in params.EXAMINED] if base else []
    return sorted(set(texts(said)) & set(sheets.external()))


def plan(stage: str, names: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """Everything that the job reads besides other jobs' results."""
    parts, known = asked_of(stage, names, settings), sheets.external()
    files = {text: content(text) for text in sorted(set(texts(parts))) if "/" in text and (text in known or Path(text).exists())}
    return {**parts, "files": files, "code": code.all_of(f"scripts/{stage}.py", *plugins(parts))}


def place(job: jobs.Job) -> Path:
    return Path(next(dep for dep in job.deps if dep.startswith((paths.PLAN, paths.OTHER_PLAN))))


def bring(job: jobs.Job, settings: Settings) -> Path:
    """Write the plan of a job if it has changed. Returns where it is."""
    file = place(job)
    text = written(plan(job.stage, job.names, settings))
    if not file.exists() or file.read_text() != text:
        write_text(file, text)
        write_text(HISTORY / f"{md5(file)}.json", text)  # so that what has changed since can be named
    return file


def written(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def refresh(settings: Settings) -> None:
    """Bring the plans of the grid up to date, and remove those that nothing asks for."""
    wanted = {place(job): job for job in reversed(list(jobs.of_grid(settings)))}
    for job in wanted.values():
        bring(job, settings)
    for file in set(Path(paths.PLAN).rglob("*.json")) - set(wanted):
        file.unlink()


def compare(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """What differs between two plans, each in a few words that name the key and both values, or the file."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            inner = name if key in ("", "code", "files") else f"{key}.{name}"
            yield from compare(old.get(name), new.get(name), inner)
    elif old != new:
        yield f"{key} changed" if "/" in key else f"{key}: {old!r} -> {new!r}"
