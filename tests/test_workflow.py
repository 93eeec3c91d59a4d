"""A real Snakemake run of the whole chain, with settings of a minute: what comes out, and that nothing is done twice."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP

from palimpsest.data import Images, Scores
from palimpsest.workflow import paths

SMALL = {
    "grid": {"concepts": ["church"], "methods": ["none", "uce"], "attacks": ["none", "cce"], "bases": ["mini"], "seeds": [0]},
    "pool": {"images": 4, "anchors": 4},
    "pairs": {"images": 2, "strength": 0.7},
    "reference": {"of": "world", "settings": {"images": 12, "stream": 7}},
}


def snakemake(project: Path, *arguments: str) -> str:
    """Run Snakemake in the project; its whole output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=project, capture_output=True, text=True, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout + run.stderr


def begun(folder: Path, settings: Mapping[str, Any], *targets: str) -> Path:
    """A project of its own in a folder, with these settings, run for these targets or for its whole grid."""
    for name in ("Snakefile", "rules", "scripts", "data", "palimpsest", "profiles", "dvc.yaml", "accepted.yaml"):
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
        copy(TOP / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, *targets)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own with small settings, run once for the table of UCE."""
    settings = yaml.safe_load((TOP / "params.yaml").read_text())
    settings |= SMALL
    settings["bases"]["mini"] |= {"steps": 4, "others_on_disk": 3}
    settings["prompts"]["settings"] = {"concept_prompts": 4, "other_prompts": 8, "train_texts": 4}
    settings["attacks"]["cce"]["settings"] = {"steps": 3, "batch": 2}
    return begun(tmp_path_factory.mktemp("project"), settings, paths.table("church", "uce"))


def test_the_table_stands_beside_none(project: Path) -> None:
    rows = list(csv.DictReader((project / paths.table("church", "uce")).open()))
    assert [row["method"] for row in rows] == ["none", "uce"]
    wanted = {
        "Ratio",
        "Ratio low",
        "Ratio high",
        "Ratio n",
        "Score",
        "CLIP-Score",
        "FID-mini",
        "LPIPS-mini",
        "ASR cce",
        "seconds",
        "peak memory MB",
    }
    assert wanted <= set(rows[0])
    assert rows[0]["LPIPS-mini"] == "0.0" and float(rows[1]["LPIPS-mini"]) > 0
    assert int(rows[0]["Ratio n"]) == 4 and int(rows[1]["ASR cce n"]) == 4


def test_what_is_not_kept_is_scored_all_the_same(project: Path) -> None:
    unedited, edited = (Images.load(project / paths.images("church", method, "mini", 0, "none")) for method in ("none", "uce"))
    listed = [row.prompt.purpose for row in edited.rows if not row.sha256]
    assert len(edited) == len(unedited) and all(row.sha256 for row in unedited.rows) and len(listed) > 4 and "concept" not in listed
    assert len(list((edited.folder / "images").iterdir())) == len(edited) - len(listed) == 4 + 3
    scores = Scores.load(project / paths.scores("church", "uce", "mini", 0, "none"))
    assert all(len(column) == len(edited) and not column.isnan().any() for column in scores.columns.values())
    assert (scores.columns["perceptual"] > 0).all() and scores.columns["objects"].sum(1).allclose(torch.ones(len(edited)), atol=1e-3)


def test_the_page_shows_the_same_prompts_before_and_after(project: Path) -> None:
    page = (project / paths.PAGE).read_text()
    assert page.count("<img") == 4 * 4 + 8 + 3 + 1  # of other things the edited model's that lie here; the last: how cce went
    assert all(text in page for text in ("unedited", "uce, under cce", "How cce went", "data:image/png;base64,", "<svg"))
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "")


def test_the_page_comes_back_from_what_is_here(project: Path) -> None:
    page = project / paths.PAGE
    before = page.read_text()
    page.unlink()
    ran = subprocess.run(
        [sys.executable, "scripts/page.py"], cwd=project, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert ran.returncode == 0 and without_ids(page.read_text()) == without_ids(before)


def without_ids(page: str) -> str:
    """matplotlib names the parts of a figure anew each time, and dates it."""
    return re.sub(r"(#|id=\"|<dc:date>)[\w:.+-]+", "", page)


def test_artifacts_say_how_they_were_made(project: Path) -> None:
    about = json.loads((project / paths.erasure("church", "uce", "mini", 0)).read_text())
    assert about["record"]["command"] == "erase church uce mini 0" and about["record"]["inputs"] and about["record"]["versions"]["torch"]
    cost = json.loads((project / paths.cost("church", "uce", "mini", 0)).read_text())
    assert cost["seconds"] > 0 and cost["peak_memory_mb"] > 50


def test_each_method_made_its_own_erasure(project: Path) -> None:
    """Rules in a loop bind late inside `shell`; the artifact says what really ran."""
    for method in ("none", "uce"):
        about = json.loads((project / paths.erasure("church", method, "mini", 0)).read_text())
        assert about["record"]["command"].split()[2] == method
        for attack in ("none", "cce"):
            asked = json.loads((project / paths.attack("church", method, "mini", 0, attack)).read_text())
            assert asked["record"]["command"].split()[2::3] == [method, attack]


def test_nothing_is_done_twice(project: Path) -> None:
    assert "Nothing to be done" in snakemake(project, "-n", paths.table("church", "uce"))


def test_a_changed_setting_reruns_what_reads_it(project: Path) -> None:
    file = project / "params.yaml"
    before = file.read_text()
    settings = yaml.safe_load(before)
    settings["methods"]["uce"] = {"settings": {"form": "2025"}}
    file.write_text(yaml.safe_dump(settings))
    planned = snakemake(project, "-n", paths.table("church", "uce"))
    file.write_text(before)
    jobs = {line.split()[0] for line in planned.splitlines() if line and line.split()[-1].isdigit() and len(line.split()) == 2}
    assert {"erase_uce", "attack_none", "attack_cce", "generate", "score", "report"} <= jobs
    assert not jobs & {"erase_none", "gen_prompts", "gen_image_pool", "sdedit_pairs", "gen_reference"}


def test_the_same_command_gives_the_same_bytes(project: Path) -> None:
    """Erase, attack and generate once more, from nothing but their inputs."""
    made = [
        paths.erasure("church", "uce", "mini", 0),
        paths.attack("church", "uce", "mini", 0, "cce"),
        paths.images("church", "uce", "mini", 0, "cce"),
    ]
    files = [
        project / made[0],
        (project / made[0]).with_suffix(".safetensors"),
        project / made[1],
        (project / made[1]).with_suffix(".safetensors"),
    ]
    files += [project / made[2], *sorted((project / made[2]).parent.glob("images/*.png"))]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    shutil.rmtree(project / "work")
    snakemake(project, *made)
    assert [file.read_bytes() for file in files] == before


def test_a_bad_run_leaves_results_alone(project: Path) -> None:
    table = project / paths.table("church", "uce")
    before = table.read_bytes()
    settings = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(settings.replace("strength:", "strenght:"))
    run = subprocess.run([sys.executable, "-m", "snakemake", "-n"], cwd=project, capture_output=True, text=True)
    (project / "params.yaml").write_text(settings)
    assert run.returncode != 0 and "did you mean 'strength'?" in run.stdout + run.stderr
    assert table.read_bytes() == before
