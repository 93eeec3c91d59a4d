"""What is missing is named before anything is drawn."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import TOP

from palimpsest.workflow import params, ready
from palimpsest.workflow.complaints import ParamsError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    ready.absent.cache_clear()
    ready.model.cache_clear()


def settings(**base: Any) -> dict[str, Any]:
    """The shipped settings with another base."""
    known = params.load()
    return {**known, "bases": {**known["bases"], "tried": {**known["bases"]["mini"], **base}}}


def test_the_embedded_model_has_what_it_needs() -> None:
    ready.check(params.load(), "mini")


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ultralytics" else found(name))
    with pytest.raises(ParamsError, match=r"scores.objects of mini needs the package ultralytics, .*`pip install -e '.\[judges\]'`"):
        ready.check(params.load(), "mini")


def test_files_and_models_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = settings(protocol="other")
    reference = {"of": "coco", "settings": {"captions": "data/external/coco/captions.csv", "folder": "data/nowhere"}}
    protocol: dict[str, Any] = {"reference": reference}
    known["protocols"] = {"other": protocol}
    with pytest.raises(
        ParamsError, match=r"reference of tried needs data/external/coco/captions.csv, .*`snakemake --cores 1 data/external"
    ):
        ready.check(known, "tried")
    reference["settings"]["captions"] = str(tmp_path)
    with pytest.raises(ParamsError, match=r"reference of tried needs data/nowhere, which is not there; put it there"):
        ready.check(known, "tried")
    protocol.clear()
    protocol["scores"] = {"clip_score": {"settings": {"clip_model": "nobody/such-a-clip"}}}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ParamsError, match=r"scores.clip_score of tried needs nobody/such-a-clip, which is not in the cache .* HF_HUB_OFFLINE is set"
    ):
        ready.check(known, "tried")


def test_models_of_the_method_and_the_attack_that_a_job_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults too; of no other job, and not of one that is skipped."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    known = settings()
    known["bases"]["other"] = {**known["bases"]["tried"], "family": "pixart"}
    known["methods"]["tried"] = {"of": "dm2", "settings": {"clip_model": "nobody/such-a-clip", "anchor": "nobody/such-a-text"}}
    known["attacks"]["tried"] = {"of": "sneaky", "settings": {"clip_model": "such-a-clip"}}
    for names, said in (
        ({"method": "tried"}, r"methods\.tried of tried needs nobody/such-a-clip, which is not in the cache"),
        ({"method": "dm2", "attack": "tried"}, r"attacks\.tried of tried needs such-a-clip, which is not in the cache"),
    ):
        with pytest.raises(ParamsError, match=said):
            ready.check(known, "tried", {"concept": "church", **names})
    known["methods"]["tried"]["settings"].pop("clip_model")
    assert [text for *_, text in ready.opened(known, "tried", {"concept": "church", "method": "tried"})] == [
        "openai/clip-vit-large-patch14"
    ]
    ready.check(known, "tried", {"concept": "church", "method": "dm2", "attack": "cce"})
    ready.check(known, "tried", {"concept": "church"})
    ready.check(known, "other", {"concept": "church", "method": "none", "attack": "tried"})


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ParamsError, match=r"bases.tried needs nobody/such-a-model, which cannot be had from the hub: .+; fetch") as error:
        ready.check(settings(path="nobody/such-a-model"), "tried")
    assert "\n" not in str(error.value)


def test_what_the_workflow_s_benchmark_writes_is_allowed(tmp_path: Path) -> None:
    runpy.run_path("benchmarks/workflow.py")["project"](tmp_path, 1, 2, 2)
    assert list(params.load()["attacks"]) == ["none", "none-1"]
