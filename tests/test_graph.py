"""One graph: what dvc.yaml says, as DVC reads it, as the scripts read it, and as Snakemake runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TOP

from palimpsest.workflow import code, jobs, params, plan

SETTINGS = params.load(TOP / "params.yaml")


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    before = Path.cwd()
    os.chdir(TOP)
    yield
    os.chdir(before)


def by_us() -> dict[str, Any]:
    return {job.name: (job.cmd, sorted(set(job.deps)), sorted(job.outs)) for job in jobs.of_grid(SETTINGS)}


@pytest.fixture(scope="module")
def by_dvc(here: None) -> dict[str, Any]:
    """Every stage as DVC resolves it."""
    from dvc.dvcfile import load_file
    from dvc.repo import Repo

    with Repo(str(TOP)) as repo:
        stages = load_file(repo, "dvc.yaml").stages
        found = {name: stages[name] for name in stages}
        return {
            n: (s.cmd, sorted({d.def_path for d in s.deps}), sorted(o.def_path for o in s.outs)) for n, s in found.items() if n != "plan"
        }


@pytest.fixture(scope="module")
def by_snakemake(here: None) -> dict[str, Any]:
    """Every job of the default target: command, small inputs, small outputs."""
    from snakemake.api import DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
    from snakemake.settings.enums import Quietness

    with pytest.MonkeyPatch.context() as patch, SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        patch.setattr(sys, "argv", ["snakemake", "-n"])  # by which the Snakefile knows that nothing will run
        workflow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=TOP / "Snakefile", workdir=TOP)
        workflow.dag(dag_settings=DAGSettings(forceall=True))
        graph = workflow._workflow
        graph._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True)
        graph._build_dag()
        return {job.shellcmd.split(" > ")[0]: (sorted(job.input), sorted(job.output)) for job in graph.dag.jobs if job.shellcmd}


def test_dvc_reads_the_graph_as_the_scripts_do(by_dvc: dict[str, Any]) -> None:
    ours = by_us()
    assert ours.keys() == by_dvc.keys()
    for name, said in ours.items():
        assert said == by_dvc[name], f"{name}: dvc.yaml and palimpsest/workflow/jobs.py differ"


def test_snakemake_runs_the_same_jobs(by_snakemake: dict[str, Any]) -> None:
    expected = {job.cmd: (sorted(job.files), sorted(job.small)) for job in jobs.of_grid(SETTINGS)}
    assert by_snakemake.keys() == expected.keys()
    for command, said in expected.items():
        inputs, outputs = by_snakemake[command]
        assert (sorted(set(inputs)), outputs) == (sorted(set(said[0])), said[1]), f"{command}: Snakefile and dvc.yaml differ"


def test_a_difference_is_named(by_dvc: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A dependency that only one of them has is seen, and its stage is named."""
    about = {**jobs.stages(), "score": {**jobs.stages()["score"], "deps": jobs.stages()["score"]["deps"][:-1]}}
    monkeypatch.setattr(jobs, "stages", lambda: about)
    with pytest.raises(AssertionError, match=r"score@.* differ"):
        test_dvc_reads_the_graph_as_the_scripts_do(by_dvc)


def test_outputs_of_two_jobs_never_meet() -> None:
    outs = [out for job in jobs.of_grid(SETTINGS) for out in job.outs]
    assert len(outs) == len(set(outs))


def test_every_large_dependency_has_its_voucher() -> None:
    """Pictures and tensors are not looked at before a run; a small file beside them must be a dependency too."""
    for job in jobs.of_grid(SETTINGS):
        for dep in job.deps:
            if dep.endswith(jobs.BESIDE):
                voucher = dep.removesuffix("images") + "manifest.json" if dep.endswith("/images") else dep.replace(".safetensors", ".json")
                assert voucher in job.deps, f"{job.name}: {dep} without {voucher}"


def test_every_stage_has_a_script_and_a_plan(here: None) -> None:
    stages = set(jobs.stages()) - {"plan"}
    assert stages == set(plan.READS)
    assert all((TOP / f"scripts/{stage}.py").exists() for stage in stages)


def test_a_plan_names_everything_that_a_script_runs(here: None) -> None:
    read = plan.plan("erase", {"concept": "church", "method": "dm2-plain", "base": "mini", "seed": "0"}, SETTINGS)
    assert {"palimpsest/methods/dm2.py", "palimpsest/clip.py", "palimpsest/edits.py", "scripts/erase.py"} <= set(read["code"])
    assert not any("report" in file or "methods/esd" in file or "workflow" in file for file in read["code"])
    assert set(read["files"]) == {"data/mini/model", "data/mini/clip"}
    assert "palimpsest/report/page.html" in code.closure("scripts/report.py")


def test_settings_for_another_concept_are_not_read(here: None) -> None:
    names = {"concept": "church", "method": "dm2", "base": "mini", "seed": "0"}
    before = plan.plan("erase", names, SETTINGS)
    entry = SETTINGS["methods"]["dm2"]
    other = {**SETTINGS, "methods": {**SETTINGS["methods"], "dm2": {**entry, "for": {**entry["for"], "nudity": {"tau": 0.5}}}}}
    assert plan.plan("erase", names, other) == before
    assert plan.plan("erase", {**names, "concept": "nudity"}, other) != plan.plan("erase", {**names, "concept": "nudity"}, SETTINGS)


PAIRS = {"concept": "church", "base": "mini"}


def with_pairs(**pairs: Any) -> dict[str, Any]:
    return {**SETTINGS, "pairs": {"images": 24, "strength": 0.7, **pairs}}


def with_score(settings: dict[str, Any], score: str, **changed: Any) -> dict[str, Any]:
    """Settings in which an entry of `scores` has other ones."""
    entry = settings["scores"][score]
    return {**settings, "scores": {**settings["scores"], score: {**entry, "settings": {**entry["settings"], **changed}}}}


def pairs_plan(settings: dict[str, Any]) -> dict[str, Any]:
    return plan.plan("sdedit_pairs", PAIRS, settings)


def test_a_gate_is_in_the_plan_of_pairs(here: None) -> None:
    """The detector that the report uses, its score's settings, code and weights; other scores are not read."""
    gated = pairs_plan(with_pairs(tries=4))
    assert gated["pairs"]["tries"] == 4
    table = plan.plan("report", {"concept": "church", "method": "none"}, SETTINGS)["table"]
    assert gated["detector"] == table["detectors"]["mini"] and set(gated["scores"]) == {"objects"}
    assert gated["scores"]["objects"]["settings"] == SETTINGS["scores"]["objects"]["settings"]
    assert "palimpsest/scores/yolo.py" in gated["code"] and "data/mini/judge.safetensors" in gated["files"]
    assert not any(f"palimpsest/scores/{name}.py" in gated["code"] for name in ("clip_score", "features", "perceptual"))
    assert pairs_plan(with_score(with_pairs(tries=4), "objects", weights="data/mini/other.safetensors")) != gated
    assert pairs_plan(with_score(with_pairs(tries=4), "features", name="FID-other")) == gated
    assert pairs_plan(with_score(with_pairs(tries=4), "styles", styles={"plain": "a photo"})) == gated


def test_another_judge_makes_pairs_stale(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights under the same name."""
    gated, open_ = pairs_plan(with_pairs(tries=4)), pairs_plan(with_pairs())
    monkeypatch.setattr(plan, "content", lambda place: "other" if "judge" in place else "same")
    changed = list(plan.compare(gated, pairs_plan(with_pairs(tries=4))))
    assert "data/mini/judge.safetensors changed" in changed
    assert not any("judge" in said for said in plan.compare(open_, pairs_plan(with_pairs())))


def test_a_plan_that_concepts_share_is_the_same_for_each(here: None) -> None:
    jobs_of_pairs = [job for job in jobs.of_grid(SETTINGS) if job.stage == "sdedit_pairs"]
    by_place: dict[Path, list[Any]] = {}
    for job in jobs_of_pairs:
        by_place.setdefault(plan.place(job), []).append(plan.plan(job.stage, job.names, with_pairs(tries=4)))
    assert len(jobs_of_pairs) > 1 and all(one == plans[0] for plans in by_place.values() for one in plans)


def test_without_a_gate_the_plan_of_pairs_is_as_it_was(here: None) -> None:
    said = pairs_plan(with_pairs(tries=0, negative="concept"))
    assert said == pairs_plan(with_pairs()) and said["pairs"] == {"images": 24, "strength": 0.7}
    assert set(said) == {"base", "sampler", "pairs", "files", "code"} and set(said["files"]) == {"data/mini/model"}
    assert pairs_plan(with_pairs(negative="prompt"))["pairs"]["negative"] == "prompt"
