"""What benchmarks/methods.py times: each plain form gives the weights that ours gives, and every timed entry runs in both."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOP, random_model
from families import random_pipeline

from palimpsest import data, edits, models
from palimpsest.methods import ca
from palimpsest.types import Model
from palimpsest.workflow.signatures import registry

sys.path.append(str(TOP / "benchmarks"))
methods, sd14, bases = (import_module(name) for name in ("methods", "sd14", "bases"))
SMALL: dict[str, list[dict[str, Any]]] = {
    "esd": [
        {"steps": 2, "batch": 2, "lr": 1e-3, "sampler_steps": 4, "eta": 1.5, **more}
        for more in (*({"variant": v} for v in ("x", "x-strict", "u", "full")), {"form": "2025", "steps": 5, "ahead": 2})
    ],
    "ca": [{"steps": 3, "batch": 2, "lr": 1e-3}],
    "salun": [{"batch": 4, "lr": 1e-3, "alpha": 0.3, "epochs": 2}],
    "duo": [{"steps": 3, "batch": 2, "rank": 2, "base_lr": 1e-2}],
    "stereo": [
        {"rounds": 2, "ste_steps": 2, "ste_lr": 1e-3, "invert_steps": 2, "invert_lr": 1e-2, "invert_batch": 2, "steps": 3, "lr": 1e-3,
         "batch": 2, "sampler_steps": 4, **more}
        for more in ({}, {"w_pos": 0.0, "w_neg": 1.0, "away": "shown"})
    ],
    "advunlearn": [
        {"steps": 4, "warmup": 2, "attack_steps": 2, "attack_lr": 0.02, "lr": 1e-3, "retain_batch": 2, "sampler_steps": 4, "ahead": 2,
         "texts": "train"},
    ],
    "fmn": [
        {"vectors": 1, "use_pooler": "none", "ti_steps": 2, "ti_batch": 2, "ti_lr": 5e-3, "steps": 2, "batch": 2, "lr": 1e-3},
        {"use_ti": False, "steps": 2, "batch": 2, "lr": 1e-3},
    ],
    "uce": [{"retain": ["", "a castle"], "preserve_scale": 0.03}],
    "rece": [{"rounds": 2, "retain": ["", "a castle"], "uce_retain": ["a dog"], "preserve_scale": 0.03, "uce_preserve_scale": 0.03}],
    "dm2": [
        {"max_loops": loops, "tau": -2.0, "images_per_loop": 2, "length": 3, "mine_steps": 2, "mine_lr": 0.1, "mine_schedule": {1: 0.3},
         "clip_model": str(TOP / "data/mini/clip"), "verify_images": 2, "bank": 3, "x_source": source, "steps": 2, "batch": 2, "lr": 1e-3,
         "schedule": {1: 0.3}, "sampler_steps": 2, "anchor": "a photo of {anchor}"}
        for source, loops in (("original", 2), ("pool", 1))
    ],
}  # fmt: skip
SINGLE = ("dm2", "salun")  # CLIP, and the count of ranks, are in float32; the others are compared in float64
CLOSE = {"duo": 1e-5, "uce": 1e-5, "rece": 1e-5, "salun": 1e-3, "dm2": 1e-4}  # of the longest change; 1e-8 where all is float64


@pytest.fixture
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """The tiny model, in float64 where that can be: Adam's first steps are signs, and make much of a rounding."""
    read, single = data.to_tensor, request.node.callspec.params["name"] in SINGLE
    for module in (data, ca) if not single else ():
        monkeypatch.setattr(module, "to_tensor", lambda picture: read(picture).double())
    torch.set_default_dtype(torch.float32 if single else torch.float64)
    try:
        yield random_model()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name, settings", [(name, settings) for name, several in SMALL.items() for settings in several])
def test_plain_form_and_ours_give_the_same_weights(name: str, settings: dict, model: Model, concept: Any, images: Any) -> None:
    before = {key: p.detach().clone() for key, p in edits.parameters(model, "*").items()}
    ours = edits.weights(model, import_module(f"palimpsest.methods.{name}").erase(model, concept, images, seed=5, **settings))
    known = {key: value for key, value in settings.items() if key not in methods.EXTRA}
    plain = import_module(f"plain.{name}").erase(model, concept, images, seed=5, **known)
    assert ours.keys() <= plain.keys()
    longest = max((value.to(before[key]) - before[key]).abs().max().item() for key, value in plain.items())
    apart = max((value.to(before[key]) - ours.get(key, before[key])).abs().max().item() for key, value in plain.items())
    assert longest > 1e-3 and apart < CLOSE.get(name, 1e-8) * longest
    assert all(torch.equal(p, before[key]) for key, p in edits.parameters(model, "*").items())  # both leave the model


def test_every_method_that_trains_or_solves_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    assert {methods.settings(case)[0] for case in methods.CASES.values()} == set(SMALL) == set(registry("methods")) - {"none", "sld"}


@pytest.mark.parametrize("name", list(methods.CASES))
def test_settings_of_a_timed_case_are_known_to_both(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    case = methods.CASES[name]
    of, asked, few = methods.settings(case)
    ours, plain = (import_module(f"{folder}.{of}") for folder in ("palimpsest.methods", "plain"))
    assert few.keys() <= inspect.signature(ours.erase).parameters.keys()
    known = inspect.signature(getattr(plain, "trace", plain.erase)).parameters.keys() | getattr(plain, "DEFAULTS", {}).keys()
    assert few.keys() - known <= set(methods.EXTRA)
    assert len({stage.timed for stage in case.stages}) == len(case.stages)
    for stage in case.stages:
        assert few[stage.setting] * stage.each == stage.timed > stage.first and asked[stage.setting] >= few[stage.setting]


def test_the_model_of_full_size_has_the_published_one_s_parameters() -> None:
    whole = sd14.model("meta", tokenizer=str(TOP / "data/mini/model/tokenizer"))
    assert {part: sum(p.numel() for p in getattr(whole, part).parameters()) for part in sd14.PARAMETERS} == sd14.PARAMETERS


def test_sdxl_of_full_size_has_the_published_one_s_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    whole = bases.sdxl("meta")
    assert models.readers(whole, {}) and models.readers(bases.sd14("meta"), {}), "else no base of full size is loaded"
    assert {part: sum(p.numel() for p in getattr(whole, part).parameters()) for part in bases.PARAMETERS} == bases.PARAMETERS


@pytest.mark.slow
@pytest.mark.parametrize("name", list(bases.PIPELINES))
def test_every_verb_is_timed_on_a_base(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(TOP)
    monkeypatch.setitem(bases.PICTURES, name, 64)
    random_pipeline(name).save_pretrained(tmp_path)
    bases.measured(name, ["verbs"], str(tmp_path))
    said = [line.split()[0].strip(",") for line in capsys.readouterr().out.splitlines()]
    attacks = {"sd14": ["cce", "unlearndiff", "sneaky"], "sdxl": ["cce", "sneaky"]}
    assert said == ["load", "uce", "esd", "dm2", *attacks[name], "draw", "score"]


def test_steps_that_were_not_run_are_added_by_what_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(methods.time, "process_time", lambda: float(next(clock)))
    leaf = torch.zeros(1, requires_grad=True)

    def erase() -> None:
        for steps in (4, 3, 4):  # a stage of two runs, and one in between that is none of the case's
            descent = torch.optim.SGD([leaf], lr=0.1)
            for _ in range(steps):
                descent.step()

    case = methods.Case("", (methods.Stage("step", "steps", 4, 2),), "")
    assert methods.timed(erase, case, {"steps": 10}) == methods.Times((1.0,), 12.0 + 2 * 6 * 1.0)
