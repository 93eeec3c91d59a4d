"""What a job asks of a machine or a cluster, and in how many parts it is made: `resources` of params.yaml. None of it changes a result."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from palimpsest.workflow import jobs, signatures, undefined
from palimpsest.workflow.complaints import ParamsError, known, least, mapping, typed

RESOURCES = ("gpu", "mem_mb", "runtime")  # what a scheduler is told of a job
# scripts whose rows can be made in parts; so can those of attacks that take `at_once`
DIVISIBLE = ("gen_image_pool", "sdedit_pairs", "generate")

LOOPED = {"erase": "method", "attack": "attack"}  # scripts that have a rule for each name


def check(params: Mapping[str, Any]) -> None:
    """`default`, and what a script or one of its rules (erase_dm2) asks beside it."""
    asked = mapping("resources", params["resources"])
    scripts = sorted(file.stem for file in Path("scripts").glob("*.py"))
    rules = {rule(verb, {kind: name}): (verb, {kind: name}) for verb, kind in LOOPED.items() for name in params[f"{kind}s"]}
    known("resources", asked, ["jobs_per_gpu", "default", *scripts, *rules])
    for name, wants in asked.items():
        if name == "jobs_per_gpu":
            least("resources.jobs_per_gpu", wants, 1)
            continue
        known(f"resources.{name}", mapping(f"resources.{name}", wants), [*RESOURCES, *([] if name == "default" else ["parts"])])
        for key, value in wants.items():
            typed(f"resources.{name}.{key}", value, int)
        least(f"resources.{name}.parts", wants.get("parts", 1), 1)
        if wants.get("parts", 1) > 1:
            divisible(params, *rules.get(name, (name, {})))
    for key, said in {"jobs_per_gpu": asked, **{f"default.{key}": asked.get("default", {}) for key in RESOURCES}}.items():
        if key.rpartition(".")[2] not in said:
            raise ParamsError(f"params.yaml: resources.{key} is missing; write an int there")


def rule(verb: str, names: Mapping[str, str]) -> str:
    """What Snakemake calls the rule of a job."""
    return f"{verb}_{names[LOOPED[verb]]}" if verb in LOOPED else verb


def wanted(params: Mapping[str, Any], verb: str, names: Mapping[str, str]) -> dict[str, int]:
    asked = params["resources"]
    return {**asked["default"], **asked.get(verb, {}), **asked.get(rule(verb, names), {})}


def asks(params: Mapping[str, Any], verb: str, names: Mapping[str, str]) -> dict[str, int]:
    """gpu, mem_mb and runtime of a job."""
    return {key: value for key, value in wanted(params, verb, names).items() if key != "parts"}


def parts(params: Mapping[str, Any], verb: str, names: Mapping[str, str]) -> int:
    """In how many parts the rows of a job are made side by side."""
    return wanted(params, verb, names).get("parts", 1)


def divisible(params: Mapping[str, Any], verb: str, names: Mapping[str, str]) -> None:
    """Whether the rows of a job can be made in parts.

    Raises:
        ParamsError: they cannot.
    """
    if verb in DIVISIBLE:
        return
    if verb == "attack" and "attack" in names:
        of = params["attacks"][names["attack"]].get("of", names["attack"])
        if "at_once" in signatures.settings("attacks", of):
            return
    name = rule(verb, names) if names else verb
    others = ", ".join(DIVISIBLE)
    raise ParamsError(f"{name} is made whole, not in parts; parts are for {others}, and attack_<name> where it takes `at_once`")


def estimate(params: Mapping[str, Any]) -> str:
    """What the jobs of the grid that are still to be made will take, in GPU hours, where their protocols say `minutes`; else nothing.

    `minutes` holds patterns of job names, as DVC has them ("erase@*-dm2-*"), and the minutes of such a job; the first that fits counts.
    """
    known = {base: params["protocols"].get(said.get("protocol"), {}).get("minutes", {}) for base, said in params["bases"].items()}
    ahead = [job for job in jobs.of_grid(params) if known.get(job.names.get("base", "")) and not undefined.reason(params, job.names)]
    ahead = [job for job in ahead if not all(Path(file).exists() for file in job.small)]
    spent = [next((value for name, value in known[job.names["base"]].items() if fnmatchcase(job.name, name)), 0) for job in ahead]
    return f"estimate: {len(ahead)} jobs to make, {sum(spent) / 60:.0f} GPU hours by the `minutes` of their protocols" if ahead else ""
