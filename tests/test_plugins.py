"""What holds for every file in methods/, attacks/ and scores/: a new one is tested by being there."""

from __future__ import annotations

import ast
import gc
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOP, random_model
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from palimpsest import data, diffusion, edits
from palimpsest.models import pipeline
from palimpsest.types import Model
from palimpsest.workflow import entries, params, signatures

METHODS, ATTACKS = signatures.registry("methods"), signatures.registry("attacks")
SMALL: dict[str, dict[str, Any]] = {  # settings that make a plug-in quick; one that is not named here runs with its defaults
    "esd": {"steps": 2, "lr": 1e-2, "sampler_steps": 4},
    "dm2": {
        "max_loops": 2, "tau": -2.0, "mine_steps": 2, "steps": 2, "length": 3, "bank": 2, "sampler_steps": 2, "lr": 1e-2,
        "clip_model": str(TOP / "data/mini/clip"),
    },
    "advunlearn": {"steps": 2, "warmup": 1, "attack_steps": 2, "retain_batch": 2, "sampler_steps": 4, "lr": 1e-2},
    "ca": {"steps": 2, "batch": 2, "lr": 1e-3},
    "duo": {"steps": 2, "batch": 2, "rank": 2, "base_lr": 1e-2},
    "fmn": {"ti_steps": 2, "steps": 2, "lr": 1e-3},
    "salun": {"batch": 4, "lr": 1e-3},
    "stereo": {"rounds": 1, "ste_steps": 1, "ste_lr": 1e-2, "invert_steps": 1, "steps": 2, "lr": 1e-2, "sampler_steps": 4},
    "cce": {"steps": 3, "batch": 2, "path_steps": 2, "path_batch": 2, "path_levels": 3},
    "sneaky": {"queries": 3, "skip": False, "clip_model": str(TOP / "data/mini/clip")},
    "p4d": {
        "k": 3, "timesteps": 2, "iterations": 2, "stop_early": False, "length": 3, "steps": 2, "every": 1,
        "clip_model": str(TOP / "data/mini/clip"),
    },
    "unlearndiff": {"k": 3, "timesteps": 2, "iterations": 2, "stop_early": False},
    "ring_a_bell": {"k": 4, "population": 8, "generations": 3, "batch": 8},
    "qf": {"length": 2, "sweeps": 0, "generations": 2, "iterations": 2, "samples": 4, "batch": 64},
}  # fmt: skip
FORMS = ("form", "method", "objective")  # settings that name a search


def erased(name: str, model: Model, concept: data.Concept, images: data.Images, **settings: Any) -> edits.Erasure:
    method = import_module(f"palimpsest.methods.{name}")
    return method.erase(model, concept, images, seed=3, **{**SMALL.get(name, {}), **settings})


def attacked(name: str, model: Model, concept: data.Concept, images: data.Images, plain: data.Prompts, **settings: Any) -> data.Prompts:
    attack = import_module(f"palimpsest.attacks.{name}").attack
    handed = {"original": random_model, "plain": plain, "seed": 3, "draw": partial(diffusion.drawn, steps=2, guidance=4.0), "judge": bright}
    mine = {key: value for key, value in handed.items() if key in signatures.given("attacks", name)}
    return attack(model, concept, images, **mine, **{**SMALL.get(name, {}), **settings})


def bright(pixels: Tensor, rows: Sequence[data.Prompt]) -> tuple[Tensor, Tensor]:
    """A judge of a random model's pictures: about half of them are brighter than grey."""
    value = pixels.mean((1, 2, 3)) / 2 + 0.5
    return value, value > 0.5


def forms(name: str) -> list[dict[str, Any]]:
    """Each of the searches that an attack may make, as settings; of one that makes a single one, no setting."""
    kinds = {key: setting.annotation for key, setting in signatures.settings("attacks", name).items() if key in FORMS}
    return [{key: choice} for key, kind in kinds.items() for choice in ast.literal_eval(kind.slice)] or [{}]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", METHODS)
def test_method_leaves_the_model_as_it_was(name: str, tiny: Model, concept: Any, images: Any, state: Callable) -> None:
    before = state(tiny)
    erased(name, tiny, concept, images)
    after = state(tiny)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(p.requires_grad for p in tiny.unet.parameters())


def living(*kinds: type) -> list[Any]:
    """Objects of these very types that Python's garbage collector knows of."""
    return [it for it in gc.get_objects() if type(it) in kinds]


def copied(tensors: list[Tensor], weights: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Tensors that hold, in a place of their own, what one of these pairs of a weight and its value on entry holds."""
    alike: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for weight, entry in weights:
        alike.setdefault(weight.shape, []).append((weight, entry))
    pairs = [(it, entry) for it in tensors for weight, entry in alike.get(it.shape, []) if it.data_ptr() != weight.data_ptr()]
    return [it for it, entry in pairs if torch.equal(it.detach().to(entry), entry)]


@pytest.mark.parametrize("name", METHODS)
def test_method_holds_one_unet(name: str, tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second network, no copy of a weight beside what an Edit keeps of those that it trains, no gradient on any other."""
    network, tensors = type(tiny.unet), (Tensor, torch.nn.Parameter)
    given = edits.parameters(tiny, "*")
    matrices = [(p, p.detach().clone()) for p in tiny.unet.parameters() if p.ndim > 1]  # vectors begin as zeros and ones, as much else does
    before = living(network, edits.Edit, *tensors)  # held, so that no new object gets the id of an old one
    old, trained, kept = {id(it) for it in before}, set(), set()

    def look() -> None:
        assert [it for it in living(network) if id(it) not in old] == []
        originals = [edit.original for edit in living(edits.Edit) if id(edit) not in old]
        kept.update(key for original in originals for key in original)
        own = {value.data_ptr() for original in originals for value in original.values()}
        assert copied([it for it in living(*tensors) if id(it) not in old and it.data_ptr() not in own], matrices) == []

    def stepping(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        mine = {id(p) for group in optimiser.param_groups for p in group["params"]}
        trained.update(mine)
        assert all(p.grad is None for p in given.values() if id(p) not in mine)
        look()

    def forward(unet: Any, *args: Any, run: Callable = network.forward, **settings: Any) -> Any:
        assert unet is tiny.unet
        return run(unet, *args, **settings)

    monkeypatch.setattr(network, "forward", forward)
    tiny.text_encoder.register_forward_pre_hook(lambda *_: look())  # a closed form has no steps
    hook = register_optimizer_step_pre_hook(stepping)
    try:
        made = erased(name, tiny, concept, images)
    finally:
        hook.remove()
    assert bool(trained) == (made.kind in ("weights", "lora"))
    assert kept <= {key for key, p in given.items() if id(p) in trained}


@pytest.mark.parametrize("name", METHODS)
def test_method_gives_the_same_bytes_for_the_same_seed(name: str, concept: Any, images: Any, tmp_path: Path) -> None:
    files = []
    for run in ("a", "b"):
        torch.manual_seed(len(files))  # the global generator must not matter
        erased(name, random_model(), concept, images).save(tmp_path / f"{run}.json", {"seed": 3})
        files.append([(tmp_path / f"{run}{end}").read_bytes() for end in (".json", ".safetensors")])
    assert files[0] == files[1]


@pytest.mark.parametrize("name", METHODS)
def test_erasure_survives_the_disk_and_applies(name: str, tiny: Model, concept: Any, images: Any, state: Callable, tmp_path: Path) -> None:
    before = state(tiny)
    made = erased(name, tiny, concept, images)
    made.save(tmp_path / "e.json", {})
    loaded = edits.load(tmp_path / "e.json")
    assert loaded.kind == made.kind and all(torch.equal(loaded.tensors[key], made.tensors[key]) for key in made.tensors)
    wanted = edits.weights(tiny, made)
    edits.apply(tiny, loaded)
    after = state(tiny)
    assert all(torch.equal(after[key], wanted.get(key, before[key])) for key in before)
    changed = any(not torch.equal(before[key], after[key]) for key in before)
    assert changed == (made.kind not in ("nothing", "guidance"))
    assert (made.kind == "nothing") == (name == "none")


@pytest.mark.parametrize("name", METHODS)
def test_stock_diffusers_draws_the_same_pictures(name: str, tiny: Model, concept: Any, images: Any, tmp_path: Path) -> None:
    """Factors through `load_lora_weights`, other weights as a folder (scripts/export.py), without a line of ours."""
    from diffusers import StableDiffusionPipeline

    made, parts = erased(name, tiny, concept, images), random_model()
    if made.kind == "guidance":  # tests/test_sld.py compares its pictures with those of diffusers' own pipeline
        assert not made.tensors and not edits.weights(tiny, made)
        return
    if made.kind == "lora":
        made.save(tmp_path / "e.json", {})
        stock = pipeline(parts)
        stock.load_lora_weights(tmp_path, weight_name="e.safetensors")
    else:
        pipeline(edits.apply(parts, made)).save_pretrained(tmp_path / "stock")
        stock = StableDiffusionPipeline.from_pretrained(tmp_path / "stock", safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    rows = [data.Prompt("a photo of a church", 3), data.Prompt("a dog in the snow", 4)]
    before = torch.stack(list(diffusion.draw(tiny, data.Prompts(rows), steps=4, guidance=7.5, batch=2)))
    ours = torch.stack(list(diffusion.draw(edits.apply(tiny, made), data.Prompts(rows), steps=4, guidance=7.5, batch=2)))
    x = diffusion.noise(tiny, [torch.Generator().manual_seed(row.seed) for row in rows])
    asked = {"latents": x, "num_inference_steps": 4, "guidance_scale": 7.5, "height": 32, "width": 32, "output_type": "np"}
    theirs = torch.from_numpy(stock([row.text for row in rows], **asked).images).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours / 2 + 0.5, theirs, atol=1e-4, rtol=0)
    assert (name == "none") == torch.equal(ours, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_leaves_the_model_as_it_was(name: str, tiny: Model, concept: Any, images: Any, plain: Any, state: Callable) -> None:
    before = state(tiny)
    attacked(name, tiny, concept, images, plain)
    after = state(tiny)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_gives_the_same_prompts_for_the_same_seed(name: str, concept: Any, images: Any, plain: Any, tmp_path: Path) -> None:
    for run in ("a", "b"):
        attacked(name, random_model(), concept, images, plain).save(tmp_path / f"{run}.json", {})
    for end in (".json", ".safetensors"):
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()
    loaded, made = data.Prompts.load(tmp_path / "a.json"), attacked(name, random_model(), concept, images, plain)
    assert list(loaded.rows) == list(made.rows)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "none"])
def test_attack_says_what_it_is_about(name: str, concept: Any, images: Any, plain: data.Prompts) -> None:
    """Each row names the plain prompt with whose seed it is drawn; stage 0 is that prompt itself, and an attack asks more than that."""
    rows = attacked(name, random_model(), concept, images, plain).rows
    for row in rows:
        about = plain.rows[row.unit]
        assert row.unit >= 0 and about.purpose == row.purpose == "concept" and row.seed == about.seed
        assert (row.stage == 0) <= (row.text == about.text)
    assert any(row.stage > 0 for row in rows)
    assert len({(row.unit, row.stage) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "none"])
def test_what_is_asked_can_be_found_by_unit_stage_and_seed(name: str, tiny: Model, concept: Any, images: Any, plain: data.Prompts) -> None:
    """As a table of units names it, beside the attack's own file, which holds text and ids; with several pictures of what is found."""
    for form in forms(name):
        more = {"pictures": 3} if name == "p4d" and form["form"] != "optml" else {}
        rows = attacked(name, tiny, concept, images, plain, **form, **more).rows
        assert rows and len({(row.unit, row.stage, row.seed) for row in rows}) == len(rows)
        assert all(row.ids for row in rows if row.stage and "<" not in row.text), "what stands in the texts are words that were learned"


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_works_on_a_guidance(name: str, tiny: Model, concept: Any, images: Any, plain: data.Prompts) -> None:
    """A model whose guidance is no mix of predictions (SLD): what is found can be drawn."""
    safe = edits.apply(tiny, erased("sld", tiny, concept, images, text="church"))
    found = attacked(name, safe, concept, images, plain)
    assert diffusion.drawn(safe, replace(found, rows=found.rows[:2]), steps=2, guidance=4.0, batch=2).isfinite().all()


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_states_its_budget(name: str) -> None:
    """In the form of each of its settings; how often it begins anew, where it does."""
    for form in forms(name):
        said = signatures.budget(name, form)
        assert said and "{" not in said and not said.endswith(".")
        assert name == "none" or any(said.startswith(f"{box} box") for box in ("white", "black"))
    if "restarts" in signatures.settings("attacks", name):
        assert "4711" in signatures.budget(name, {"restarts": 4711})


def test_a_budget_is_that_of_the_settings() -> None:
    assert "up to the first" in signatures.budget("unlearndiff", {})
    assert "up to the first" not in signatures.budget("unlearndiff", {"stop_early": False})
    assert "3000 generations" in signatures.budget("ring_a_bell", {})
    for chosen in ({"form": "soft"}, {"prompts_file": "found.csv"}, {"prompts_file": "found.csv", "form": "soft"}):
        assert "generations" not in signatures.budget("ring_a_bell", chosen)
    assert "prompts of a file" in signatures.budget("ring_a_bell", {"prompts_file": "found.csv", "form": "soft"})
    assert signatures.budget("cce", {}).endswith("one picture a prompt")


def test_none_asks_plainly(tiny: Model, concept: Any, images: Any, plain: data.Prompts) -> None:
    assert attacked("none", tiny, concept, images, plain).rows == plain.rows


@pytest.mark.parametrize("section", ["methods", "attacks", "scores"])
def test_params_bind_to_signatures(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    settings = params.load()
    verb = signatures.VERBS[section]
    for name in settings[section]:
        for concept in (*settings["grid"]["concepts"], ""):
            of, given = entries.plugin(settings, section, name, concept)
            function = getattr(import_module(f"palimpsest.{section}.{of}"), verb)
            mine = {key for key, value in inspect.signature(function).parameters.items() if value.kind is value.KEYWORD_ONLY}
            assert set(given) <= mine - signatures.GIVEN, f"{section}.{name}"


@pytest.mark.parametrize("folder", list(signatures.VERBS))
def test_every_annotation_is_understood(folder: str) -> None:
    for name in signatures.registry(folder):
        for setting in signatures.settings(folder, name).values():
            signatures.fits(None, setting.annotation)


@pytest.mark.parametrize("name", [*METHODS, *ATTACKS])
def test_the_least_that_a_whole_number_may_be_is_taken_or_refused_in_one_line(name: str, concept: Any, images: Any, plain: Any) -> None:
    """0 of an `int`, 1 of a `Count`: a ValueError that names the plug-in or the setting, and nothing else, is allowed."""
    run: Callable[..., Any] = partial(erased, name) if name in METHODS else partial(attacked, name, plain=plain)
    for key, setting in signatures.settings("methods" if name in METHODS else "attacks", name).items():
        kind = ast.unparse(setting.annotation).split(" ")[0]
        for form in forms(name) if name in ATTACKS and name not in METHODS else [{}]:
            if (span := signatures.NUMBERS.get(kind)) and span.said.startswith("int"):
                try:
                    made = run(random_model(), concept, images, **{**form, key: span.least})
                    assert name in METHODS or not any(math.isnan(value) for line in made.log for value in line.values()), key
                except ValueError as error:
                    assert re.match(rf"({name}|\w+(, \w+)*): ", str(error)), f"{key}: {error}"


@pytest.mark.parametrize("folder", ["methods", "attacks"])
def test_every_plugin_says_where_it_comes_from(folder: str) -> None:
    for name in set(signatures.registry(folder)) - {"none"}:
        about = import_module(f"palimpsest.{folder}.{name}").__doc__ or ""
        assert "arXiv" in about and "Differs from" in about, name
        assert len((TOP / "palimpsest" / folder / f"{name}.py").read_text().splitlines()) <= 250
