"""A method or an attack that is not defined on a base's family: skipped with a reason, by every job, into the table."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TOP, on_disk
from safetensors.torch import load_file

from palimpsest.data import Prompt, Scores
from palimpsest.files import write_json
from palimpsest.report import page, table
from palimpsest.workflow import jobs, memory, params, paths, stage, undefined

GRID = {"concepts": ["church"], "methods": ["none", "uce"], "attacks": ["none", "p4d"], "bases": ["mini-as-sd3"], "seeds": [0]}
CELL = ("church", "uce", "mini-as-sd3", "0")
WHY = "uce is not defined on mini-as-sd3: SD3's keys and values"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base that says it is an SD3, and what its jobs read; no model is ever loaded."""
    for name in ("data", "palimpsest", "scripts"):
        (tmp_path / name).symlink_to(TOP / name)
    for name in ("dvc.yaml", "accepted.yaml"):
        shutil.copy(TOP / name, tmp_path / name)
    settings = yaml.safe_load((TOP / "params.yaml").read_text())
    settings["bases"]["mini-as-sd3"] = {**settings["bases"]["mini"], "family": "sd3"}
    settings["grid"] = GRID
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    for name in (stage.KEEP, "DVC_STAGE"):  # as by hand
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, script: str, *names: str) -> None:
    """A script in this process."""
    monkeypatch.setattr(sys, "argv", [f"scripts/{script}.py", *names])
    runpy.run_path(f"scripts/{script}.py", run_name="__main__")


def test_every_job_makes_results_that_hold_nothing_and_say_why(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = params.load()
    run(monkeypatch, "erase", *CELL)
    for attack in GRID["attacks"]:
        for script in ("attack", "generate", "score"):
            run(monkeypatch, script, *CELL, attack)
    assert capsys.readouterr().out.count(f"skipped: {WHY}") == 7
    for script in ("erase", "attack", "generate", "score"):
        job = jobs.job(script, dict(zip(jobs.AXES, ("church", "uce", "p4d", "mini-as-sd3", "0"), strict=True)), settings)
        assert all(Path(out).exists() for out in job.outs), job.outs
        assert all(json.loads(Path(out).read_text())["skipped"].startswith(WHY) for out in job.small)
        assert all(load_file(out) == {} for out in job.outs if out.endswith(".safetensors"))
        assert memory.receipts(job)  # so that it is not run again
    row = table.of_cell(table.Cell("church", "uce", "mini-as-sd3", 0), dict.fromkeys(GRID["attacks"], "one step"), {}, "object")
    assert row["skipped"].startswith(WHY) and "Ratio" not in row
    assert table.of_units([table.Cell("church", "uce", "mini-as-sd3", 0)], {"mini-as-sd3": GRID["attacks"]}, {}).count("\n") <= 1


def test_an_attack_that_is_not_defined_leaves_the_rest_of_the_row(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = table.Cell("church", "none", "mini-as-sd3", 0)
    for script in ("attack", "generate", "score"):
        run(monkeypatch, script, *map(str, cell), "p4d")
    prompts = [Prompt("a church", 0, "concept"), *(Prompt("a dog", n, "other", "dog") for n in range(3))]
    columns = {"objects": torch.tensor([[0.9, 0.1], *[[0.2, 0.8]] * 3]), "clip_score": torch.ones(4), "perceptual": torch.zeros(4)}
    scores = Scores(
        {**columns, "features": torch.randn(4, 3)}, {"objects": ["church", "dog"], "features": "FID", "perceptual": "LPIPS"}, prompts
    )
    scores.save(Path(paths.scores(*cell, "none")), {})
    scores.save(Path(paths.reference_scores(cell.base)), {})
    write_json(Path(paths.cost(*cell)), {"seconds": 1.0, "peak_memory_mb": 1})
    row = table.of_cell(cell, {"none": "", "p4d": "much"}, {"score": "objects", "classes": ["church"]}, "object")
    assert row["Ratio"] == 100 and row["skipped"].startswith("p4d is not defined on mini-as-sd3: ") and "ASR p4d" not in row
    on_disk(Path(paths.images(*cell, "none")), prompts, [torch.zeros(3, 64, 64)] * 4)
    table.write(Path(paths.table("church", "uce")), [row, {"method": "uce", "base": cell.base, "seed": 0, "skipped": "uce is not: why"}])
    page.refresh(params.load())
    shown = Path(paths.PAGE).read_text()
    assert shown.count("<img") == 1 + 3 and f"Skipped: {row['skipped']}" in shown and "Skipped: uce is not: why" in shown


def test_the_grid_says_what_of_it_is_skipped(project: Path) -> None:
    said = list(undefined.of_grid(params.load()))
    assert [line.split(" on ")[0] for line in said] == ["uce is not defined", "p4d is not defined"]
    settings = params.load()
    settings["grid"]["bases"] = ["mini"]
    assert list(undefined.of_grid(settings)) == []
