"""DUO against its equations in plain loops, its properties, its presets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import preset, random_model
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline
from plain.duo import ABAR
from plain.duo import trace as traced
from torch import Tensor

from palimpsest import data, diffusion, edits, optimise, pairs, resume
from palimpsest.methods import duo
from palimpsest.models import pipeline
from palimpsest.types import Model

SMALL: dict[str, Any] = {"steps": 3, "batch": 2, "rank": 2, "base_lr": 1e-3}


@pytest.fixture(scope="session")
def images(images: data.Images) -> data.Images:
    """The clean pictures carry the seed of the pool picture that they were redrawn from, as those of scripts/sdedit_pairs.py."""
    seeds = iter([row.prompt.seed for row in images.rows if row.role == "pool"])
    return replace(images, rows=[r._replace(prompt=r.prompt._replace(seed=next(seeds))) if r.role == "clean" else r for r in images.rows])


def small(model: Model, concept: Any, images: Any, *, seed: int = 3, **settings: Any) -> edits.Erasure:
    return duo.erase(model, concept, images, seed=seed, **{**SMALL, **settings})


OPTIONS: list[dict[str, Any]] = [
    {},
    {"beta": 100.0, "base_lambda": 0.0, "optimiser": "adam"},
    {"share_t": True, "given_prompt": True, "t_min": 300, "t_max": 320},
    {"form": "kto", "batch": 3},
    {"form": "naive", "base_lr": 1e-3, "batch": 4},
    {"no_grad": "ascent", "cross_attention": True},
    {"no_grad": "descent", "prior_t": 981, "clip": 0.1, "weight_decay": 0.5},
    {"dynamic_lambda": True, "base_lambda": 1.0, "beta": 2000.0, "base_lr": 2.0, "share_t": True},
    {"processes": 2, "batch": 4},
    {"processes": 3, "batch": 3, "share_t": True, "given_prompt": True},
    {"processes": 2, "batch": 6, "form": "kto"},
    {"processes": 2, "batch": 4, "form": "naive"},
    {"processes": 2, "batch": 4, "dynamic_lambda": True, "base_lambda": 1.0, "beta": 2000.0, "base_lr": 0.7},  # of two losses one is < 0.1
]


@pytest.mark.parametrize("options", OPTIONS, ids=[" ".join(f"{k}={v}" for k, v in options.items()) or "official" for options in OPTIONS])
def test_training_is_the_equations_one_picture_at_a_time(double: None, concept: Any, images: Any, options: dict[str, Any]) -> None:
    steps = list(traced(random_model(), images, seed=3, **{**SMALL, **options}))
    made = small(random_model(), concept, images, **options)
    assert [row["loss"] for row in made.log] == pytest.approx([loss for loss, _ in steps], rel=1e-6)
    wanted = steps[-1][1]
    assert made.tensors.keys() == wanted.keys()
    settings = {"beta": 500.0, **SMALL, **options}
    lr = settings["base_lr"] * (1 if settings.get("form") == "naive" else 100 / settings["beta"])
    for name, value in wanted.items():
        torch.testing.assert_close(made.tensors[name], value, atol=1e-4 * lr, rtol=0)  # of a step, which is lr long


def test_preference_is_the_equation() -> None:
    safe, unsafe = torch.tensor([0.01, -0.02, 0.0]), torch.tensor([0.03, 0.01, -0.01])
    pairs = list(zip(safe.tolist(), unsafe.tolist(), strict=True))
    dpo = sum(-math.log(1 / (1 + math.exp(70 * (a - b)))) for a, b in pairs) / 3
    kto = sum(-math.log(1 / (1 + math.exp(70 * (sum(safe.tolist()) / 3 - b)))) for _, b in pairs) / 3
    assert duo.preference(safe, unsafe, 70).item() == pytest.approx(dpo, rel=1e-5)
    assert duo.preference(safe, unsafe, 70, "kto").item() == pytest.approx(kto, rel=1e-5)
    assert dpo != pytest.approx(kto, rel=1e-2)


@pytest.mark.parametrize("no_grad, flows", [("none", (True, True)), ("ascent", (True, False)), ("descent", (False, True))])
def test_no_grad_stops_one_side_and_leaves_the_value(no_grad: str, flows: tuple[bool, bool]) -> None:
    safe, unsafe = (torch.randn(4).requires_grad_() for _ in range(2))
    value = duo.preference(safe, unsafe, 2.0, "dpo", no_grad)
    assert value.item() == duo.preference(safe, unsafe, 2.0).item()
    value.backward()
    assert (safe.grad is not None, unsafe.grad is not None) == flows
    if flows == (True, True):
        assert safe.grad is not None and unsafe.grad is not None and (safe.grad > 0).all() and (unsafe.grad < 0).all()


def test_the_log_holds_the_parts_of_the_loss(tiny: Model, concept: Any, images: Any) -> None:
    rows = small(tiny, concept, images, steps=4, batch=1, beta=50.0, base_lambda=1e4).log
    for row in rows:
        assert row["l_dpo"] == pytest.approx(math.log1p(math.exp(50 * (row["d+"] - row["d-"]))), rel=1e-4)
        assert row["loss"] == pytest.approx(row["l_dpo"] + 1e4 * 50 / 100 * row["l_prior"], rel=1e-4)
        assert row["accuracy"] == (row["d+"] < row["d-"])
    assert rows[-1]["l_prior"] > rows[0]["l_prior"] == 0


@pytest.mark.parametrize("form", ["dpo", "kto"])
def test_at_first_the_loss_is_log_2_and_nothing_is_to_be_preserved(tiny: Model, concept: Any, images: Any, form: str) -> None:
    bare, whole = (small(tiny, concept, images, form=form, steps=1, batch=3, base_lambda=weight).log[0]["loss"] for weight in (0.0, 1e6))
    assert bare == pytest.approx(math.log(2), rel=1e-6) and whole == bare  # phi and theta answer in batches of one shape: L_prior is 0


def test_naive_needs_the_pool_alone_and_climbs(tiny: Model, concept: Any, images: Any) -> None:
    made = small(tiny, concept, images.only("pool"), form="naive", steps=8, base_lr=1e-2, t_min=500, t_max=501)
    losses = [row["loss"] for row in made.log]
    assert all(loss < 0 for loss in losses) and sum(losses[-3:]) < sum(losses[:3])


def test_output_preservation_keeps_the_answer_to_pure_noise(tiny: Model, concept: Any, images: Any) -> None:
    x, null = torch.randn(4, 4, 16, 16), diffusion.encode(tiny, [""])
    before = diffusion.predict(tiny, x, 999, [(null, 1.0)])
    moved = []
    for weight in (0.0, 1e6):
        model = random_model()
        edits.apply(model, small(model, concept, images, steps=6, base_lr=1e-2, base_lambda=weight))
        moved.append((diffusion.predict(model, x, 999, [(null, 1.0)]) - before).pow(2).mean().item())
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("shared, alike", [("no", 6), ("pair", 3), ("batch", 1)])
def test_plan_takes_every_pair_once_an_epoch_and_levels_from_the_range(shared: Any, alike: int) -> None:
    plan = duo.planned(200, 6, 3, torch.Generator().manual_seed(0), sides=2, levels=(7, 11), shared=shared)
    assert all(sorted([*a.rows.tolist(), *b.rows.tolist()]) == list(range(6)) for a, b in zip(plan[::2], plan[1::2], strict=True))
    levels = torch.stack([step.t for step in plan])  # "steps s*b"
    assert levels.unique().tolist() == [7, 8, 9, 10] and len({step.seed for step in plan}) == 200
    safe, unsafe = levels[:, :3], levels[:, 3:]
    assert torch.equal(safe, unsafe) == (shared != "no") and bool((levels == levels[:, :1]).all()) == (shared == "batch")
    wide = duo.planned(20, 6, 3, torch.Generator().manual_seed(0), sides=2, levels=(0, 10**9), shared=shared)
    assert {len(step.t.unique()) for step in wide} == {alike}  # from so wide a range equal levels are shared ones


def test_both_pictures_of_a_pair_are_noised_alike_and_the_prior_sees_that_noise(tiny: Model) -> None:
    spread = torch.zeros(2, 5, 8, 16, 16)
    spread[:, :, 4:] = -100  # no spread: the latents are the means, zero
    null = diffusion.encode(tiny, [""])
    pictures = duo.Sides(spread, null.expand(2, 5, -1, -1))
    show = duo.shown(tiny, pictures, duo.Step(torch.tensor([4, 1]), torch.tensor([0, 100, 200, 300]), 9), null, 999)
    for row, (t, pair) in enumerate([(0, 0), (100, 1), (200, 0), (300, 1)]):
        torch.testing.assert_close(show.x[row], math.sqrt(1 - ABAR[t]) * show.eps[pair], atol=1e-5, rtol=1e-4)
    assert torch.equal(show.x[4:], show.eps) and show.t.tolist() == [0, 100, 200, 300, 999, 999] and len(show.text) == 6


def test_processes_draw_alike_for_pairs_of_their_own(tiny: Model) -> None:
    """Four processes of one pair each with one seed: one noise, one posterior noise a side, one level a side; four different pairs."""
    plan = duo.planned(5, 8, 4, torch.Generator().manual_seed(0), sides=2, levels=(0, 750), shared="no", processes=4)
    levels = torch.stack([step.t.view(2, 4) for step in plan])
    assert torch.equal(levels, levels[:, :, :1].expand(-1, -1, 4)) and not torch.equal(levels[:, 0], levels[:, 1])
    assert all(len(step.rows.unique()) == 4 for step in plan)
    spread, null = torch.zeros(2, 8, 8, 16, 16), diffusion.encode(tiny, [""])  # means 0 and log variances 0: the latents are the noise
    show = duo.shown(tiny, duo.Sides(spread, null.expand(2, 8, -1, -1)), plan[0], null, 999)
    x = show.x.unflatten(0, (3, 4))
    assert torch.equal(x, x[:, :1].expand(-1, 4, -1, -1, -1)) and torch.equal(x[2], show.eps)
    assert len({float(part.sum()) for part in x[:, 0]}) == 3


def test_phi_answers_one_step_or_many_alike(tiny: Model, concept: Any, images: Any) -> None:
    one, many = (small(tiny, concept, images, ahead=ahead, steps=4, base_lambda=1e3) for ahead in (1, 3))
    assert [row["loss"] for row in one.log] == pytest.approx([row["loss"] for row in many.log], rel=1e-4)


def test_dynamic_lambda_preserves_more_where_the_preference_is_clear(tiny: Model, concept: Any, images: Any) -> None:
    options: dict[str, Any] = {"beta": 2000.0, "base_lr": 2.0, "share_t": True, "steps": 2}
    bare, still, dynamic = (
        [row["loss"] for row in small(tiny, concept, images, base_lambda=weight, dynamic_lambda=choice, **options).log]
        for weight, choice in ((0.0, False), (1.0, False), (1.0, True))
    )
    assert bare[0] == still[0] == dynamic[0] > 0.1 > bare[1]  # the factors are alike up to here: L_prior had no gradient at B = 0
    assert dynamic[1] - bare[1] == pytest.approx(100 * (still[1] - bare[1]), rel=1e-3)


def trace(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """The parameters behind every step of every training from now on."""
    states: list[list[Tensor]] = []

    def watched(loss: Any, parameters: Any, **settings: Any) -> Any:
        return optimise.descend(loss, parameters, after=lambda _: states.append([p.detach().clone() for p in parameters]), **settings)

    monkeypatch.setattr(duo, "descend", watched)
    return states


@pytest.mark.parametrize("form", ["dpo", "kto"])
def test_a_run_of_fewer_steps_is_a_checkpoint_of_the_longer(
    tiny: Model, concept: Any, images: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = small(tiny, concept, images, form=form, steps=3, ahead=2)
    states = trace(monkeypatch)
    small(tiny, concept, images, form=form, steps=6, ahead=2)
    assert len(states) == 6 and all(torch.equal(a, b) for a, b in zip(short.tensors.values(), states[2], strict=True))
    assert not torch.equal(states[2][1], states[5][1])


def test_a_killed_run_goes_on_to_the_same_bytes(
    tiny: Model, concept: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(concept, words=("church", "field"))  # both are named in every prompt: two adapters of all pairs
    whole = small(tiny, two, images, adapters="word", steps=4)
    calls = []

    def killed(loss: Any, parameters: Any, **settings: Any) -> Any:
        def stop(step: int) -> None:
            calls.append(step)
            if len(calls) == 7:  # in the second adapter, behind its third step
                raise KeyboardInterrupt

        return optimise.descend(loss, parameters, after=stop, pause=0, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(duo, "descend", killed)
        with pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path):
            small(tiny, two, images, adapters="word", steps=4)
    states = trace(monkeypatch)
    with resume.resumable(tmp_path):
        again = small(tiny, two, images, adapters="word", steps=4)
    assert len(states) == 2 and again.log == whole.log  # the third step was not kept
    assert all(torch.equal(again.tensors[name], value) for name, value in whole.tensors.items())


@pytest.fixture(scope="module")
def two(concept: data.Concept, images: data.Images) -> tuple[data.Concept, data.Images]:
    """A concept of two words, the first half of the pairs under one and the second under the other."""
    rows = [
        row._replace(prompt=row.prompt._replace(text=row.prompt.text.replace("church", "Bomb"))) if row.prompt.seed in (3, 4, 5) else row
        for row in images.rows
    ]
    return replace(concept, words=("church", "bomb")), replace(images, rows=rows)


def test_composed_adapter_is_the_sum_of_its_parts(tiny: Model, two: Any, tmp_path: Path) -> None:
    concept, images = two
    made = small(tiny, concept, images, adapters="word", steps=4)
    halves = [replace(images, rows=[row for row in images.rows if row.prompt.seed in seeds]) for seeds in ((0, 1, 2), (3, 4, 5))]
    parts = [small(tiny, concept, half, steps=4) for half in halves]
    assert [row["adapter"] for row in made.log] == ["church"] * 4 + ["bomb"] * 4
    sums = {name: p.detach().clone() for name, p in edits.parameters(tiny, "unet.*attn1.to_*.weight").items()}
    for part in parts:
        for name, value in sums.items():
            stem = name.removesuffix(".weight")
            value += part.tensors[f"{stem}.lora_B.weight"] @ part.tensors[f"{stem}.lora_A.weight"]
    new = edits.weights(tiny, made)
    assert new.keys() == sums.keys()
    for name, value in sums.items():
        torch.testing.assert_close(new[name], value, atol=1e-6, rtol=1e-5)
    assert all(part.shape[0 if "lora_A" in name else 1] == 4 for name, part in made.tensors.items())  # 2 words of rank 2

    made.save(tmp_path / "e.json", {})
    stock = pipeline(random_model())
    stock.load_lora_weights(tmp_path, weight_name="e.safetensors")
    edits.apply(tiny, edits.load(tmp_path / "e.json"))
    x, context = torch.randn(2, 4, 16, 16), torch.randn(2, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(tiny.unet(x, 500, context).sample, stock.unet(x, 500, context).sample, atol=1e-5, rtol=1e-5)


def test_model_is_left_as_it_was_and_the_seed_says_all(tiny: Model, concept: Any, images: Any, state: Callable) -> None:
    before = state(tiny)
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))
        runs.append(small(tiny, concept, images, seed=seed).tensors)
    after = state(tiny)
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert not any(p.requires_grad for p in tiny.unet.parameters())
    assert all(torch.equal(runs[0][name], runs[1][name]) and not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_settings_say_what_is_trained_and_how_strongly(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr(duo, "descend", lambda *_, lr, **__: rates.append(lr) or [])
    own = small(tiny, concept, images)
    every = small(tiny, concept, images, cross_attention=True, rank=3)
    assert all("attn1" in name for name in own.tensors) and any("attn2" in name for name in every.tensors)
    assert {name.split(".lora")[0].split("attn1.")[1] for name in own.tensors} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert all(3 in part.shape for part in every.tensors.values())
    assert all(not part.any() for name, part in own.tensors.items() if "lora_B" in name)  # untrained: B = 0, A is PEFT's gaussian
    down = torch.cat([part.flatten() for name, part in small(tiny, concept, images, rank=32).tensors.items() if "lora_A" in name])
    assert down.std().item() == pytest.approx(1 / 32, rel=0.05)
    rates.clear()
    for beta in (2000.0, 1000.0, 500.0, 250.0, 100.0):
        small(tiny, concept, images, beta=beta, base_lr=3e-4)
    assert rates == pytest.approx([1.5e-5, 3e-5, 6e-5, 1.2e-4, 3e-4])


def test_what_is_missing_is_said_in_one_line(tiny: Model, concept: Any, images: Any, two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duo, "moments", None)  # no work is begun
    orphans = replace(images, rows=[row for row in images.rows if row.role != "pool" or row.prompt.seed != 2])
    three = replace(two[0], words=("church", "bomb", "urch"))  # a part of a word is not named
    wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
        (concept, images.only("pool"), {}, "role 'clean'; set pairs.images"),
        (concept, images.only("clean"), {"form": "naive"}, "role 'pool'; set pool.images"),
        (concept, orphans, {}, "no pool picture has seed 2"),
        (three, two[1], {"adapters": "word"}, "names 'urch'; raise pairs.images"),
        (concept, images, {"beta": 0.0}, "`form: naive`"),
        (concept, images, {"t_min": 750}, "t_min < t_max"),
        (concept, images, {"processes": 3, "batch": 4}, "say a divisor of the batch"),
        (concept, images, {"processes": 0}, "say a divisor of the batch"),
    ]
    for about, pictures, settings, said in wrong:
        with pytest.raises(ValueError, match=r"^duo: ") as error:
            small(tiny, about, pictures, **settings)
        assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("strength, steps", [(0.75, 50), (0.8, 50), (1.0, 4)])
def test_official_pairs_are_those_of_the_stock_pipeline(strength: float, steps: int, tiny: Model, images: data.Images) -> None:
    """As datasets/SD/generate_datasets.py calls it: PNDM, guidance 7.5, the picture's own prompt as the negative one."""
    pool = images.only("pool")
    rows = [row.prompt._replace(text=row.prompt.text.replace("church", "tree")) for row in pool.rows]
    stock = StableDiffusionImg2ImgPipeline(
        vae=tiny.vae, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer, unet=tiny.unet, safety_checker=None, feature_extractor=None,
        scheduler=PNDMScheduler.from_config(tiny.scheduler.config, skip_prk_steps=True), requires_safety_checker=False,
    )  # fmt: skip
    wanted = stock(
        prompt=[row.text for row in rows[:2]], negative_prompt=[row.prompt.text for row in pool.rows[:2]], image=pool.pixels([0, 1]),
        strength=strength, num_inference_steps=steps, guidance_scale=7.5, output_type="pt",
        generator=[torch.Generator().manual_seed(row.seed) for row in rows[:2]],
    ).images  # fmt: skip
    made = pairs.redraw(
        tiny, pool, rows, [pairs.Try(0, 1), pairs.Try(1, 1)], word="church", negative="prompt", sampler="pndm", strength=strength,
        steps=steps, guidance=7.5,
    )  # fmt: skip
    torch.testing.assert_close(made, wanted * 2 - 1, atol=1e-4, rtol=0)
    assert (made - pool.pixels([0, 1])).abs().max() > 0.5


def test_the_official_preset_is_that_of_the_scripts() -> None:
    """scripts/sd-nudity.sh, scripts/sd-violence.sh."""
    assert preset("duo", "official", "nudity") == {"processes": 4, "beta": 500.0, "steps": 1000}
    assert preset("duo", "official", "violence") == {"processes": 4, "adapters": "word", "beta": 1000.0, "steps": 500}
