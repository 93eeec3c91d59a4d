"""The papers' protocol on the embedded model: frozen lists, real pictures, NudeNet, Q16, Inception and LPIPS through the whole workflow.

Weights that cannot be shipped are random ones of the right shape: that everything fits together is tested here, not what it measures.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP
from PIL import Image
from safetensors.torch import save_file
from test_workflow import begun

from palimpsest.workflow import paths

pytestmark = pytest.mark.slow
CLIP = "data/mini/clip"


def scores(folder: Path) -> dict[str, Any]:
    """The scores of the protocol, on weights that are made here."""
    from pytorch_fid.inception import fid_inception_v3
    from torchvision.models import alexnet

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytorch_fid.inception.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        save_file(fid_inception_v3().state_dict(), folder / "inception.safetensors")
    save_file(alexnet().state_dict(), folder / "alexnet.safetensors")
    save_file({"prompts": torch.randn(2, 64).half()}, folder / "q16.safetensors")
    return {
        "nudity": {"of": "nudenet"},
        "q16": {"settings": {"clip_model": CLIP, "prompts": "weights/q16.safetensors"}},
        "objects": {"of": "yolo", "settings": {"weights": "data/mini/judge.safetensors"}},
        "styles": {"of": "style", "settings": {"clip_model": CLIP, "styles": ["crayon", "van gogh", "pencil drawing"]}},
        "clip_score": {"settings": {"clip_model": CLIP}},
        "features": {"of": "inception", "settings": {"weights": "weights/inception.safetensors", "digest": ""}},
        "perceptual": {"of": "lpips", "settings": {"backbone": "weights/alexnet.safetensors"}},
    }


def photographs(folder: Path, count: int) -> None:
    """Pictures and captions as COCO's lie on the disk."""
    folder.mkdir()
    rows = [["image_id", "caption_id", "caption", "seed"]]
    for n in range(count):
        Image.new("RGB", (90, 70 + n), (20 * n, 90, 200 - 15 * n)).save(folder / f"{n:012d}.jpg")
        rows.append([str(n), str(n), f"a photo of a dog, number {n}", str(200_000 + n)])
    with (folder.parent / "captions.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose one base is examined as the papers examine Stable Diffusion, run for UCE on three kinds of concept."""
    folder = tmp_path_factory.mktemp("papers")
    photographs(folder / "photographs", 8)
    settings = yaml.safe_load((TOP / "params.yaml").read_text())
    protocol = settings["protocols"]["papers"]
    protocol |= {"pool": {"images": 4, "anchors": 4, "captions": 1}, "pairs": {"images": 2, "strength": 0.7, "negative": "prompt"}}
    protocol["prompts"]["settings"] = {"folder": "data/prompts", "images": 1, "other_prompts": 6, "coco": "captions.csv"}
    protocol["reference"]["settings"] = {"captions": "captions.csv", "folder": "photographs", "images": 8, "size": 64}
    protocol["scores"] = scores(folder / "weights")
    del protocol["presets"]  # those are for the real model's size
    own = {**settings["bases"]["mini"], "protocol": "papers", "detectors": "papers", "shareable": False, "steps": 2}
    settings["bases"] = {"sd14": own}
    settings["attacks"]["cce"]["settings"] = {"steps": 3, "batch": 2, "eval_prompts": "prefixed"}  # the context of mini is short
    grid = {"methods": ["none", "uce"], "attacks": ["none", "cce"], "bases": ["sd14"], "seeds": [0]}
    settings["grid"] = {"concepts": ["nudity", "church", "van_gogh"], **grid}
    for section in ("phenomena", "table1", "robustness", "crossed"):
        settings[section] = {"concepts": ["church"], **grid}
    return begun(folder, settings)


@pytest.mark.parametrize("concept", ["nudity", "church", "van_gogh"])
def test_the_table_has_the_papers_columns(project: Path, concept: str) -> None:
    rows = list(csv.DictReader((project / paths.table(concept, "uce")).open()))
    assert [row["method"] for row in rows] == ["none", "uce"]
    for row in rows:
        assert row["Ratio n"] == "100" and row["ASR cce n"] == "100"
        assert all(math.isfinite(float(row[name])) for name in ("Ratio", "CLIP-Score", "FID", "LPIPS", "LPIPS near", "ASR cce"))
    assert float(rows[0]["LPIPS"]) == 0 < float(rows[1]["LPIPS"])


def test_prompts_are_the_committed_lists(project: Path) -> None:
    about = json.loads((project / paths.prompts("church", "sd14")).read_text())
    lists = yaml.safe_load((TOP / "data/prompts/church.yaml").read_text())
    assert [row["text"] for row in about["prompts"] if row["purpose"] == "concept"] == lists["captions"]
    assert [row["text"] for row in about["prompts"] if row["purpose"] == "other"] == [f"a photo of a dog, number {n}" for n in range(6)]
    assert about["record"]["asked"]["by"] == lists["by"] and about["texts"]["train"] == lists["phrases"]


def test_concept_inversion_learns_from_pictures_of_captions(project: Path) -> None:
    rows = json.loads((project / paths.pool("church", "sd14")).read_text())["pictures"]
    assert [row["role"] for row in rows] == ["pool"] * 4 + ["anchor"] * 4 + ["captioned"] * 100
    assert {row["prompt"]["text"] for row in rows[:4]} == {"a church photo"}


def test_scores_say_what_looked(project: Path) -> None:
    about = json.loads((project / paths.scores("nudity", "uce", "sd14", 0, "none")).read_text())
    assert about["instruments"]["nudity"]["channels"] == "rgb" and {"nudity", "q16", "features", "perceptual"} <= set(about["instruments"])


def test_the_page_blurs_and_sets_published_figures_beside(project: Path) -> None:
    page = (project / paths.PAGE).read_text()
    assert "Blurred: the concept is sensitive" in page and "How Ratio moves with the threshold" in page
    assert "Published and measured" in page and "darkminer" in page and "not measured" in page


def test_what_is_missing_is_named_before_anything_is_drawn(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("results", "work", ".snakemake"))
    (copy / "weights/alexnet.safetensors").unlink()
    settings = (copy / "params.yaml").read_text().replace("weights/alexnet", "./weights/alexnet")
    (copy / "params.yaml").write_text(settings)
    told = subprocess.run(
        [sys.executable, "scripts/gen_prompts.py", "church", "sd14"],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert told.returncode == 1 and "Traceback" not in told.stderr
    assert "scores.perceptual of sd14 needs ./weights/alexnet.safetensors, which is not there" in told.stderr
