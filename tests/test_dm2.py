"""Dark Miner: each of its three steps against the equations, and every open choice of the paper does what it says."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from conftest import TOP, random_model
from plain import dm2 as plain
from torch.nn.functional import cosine_similarity

from palimpsest import diffusion, edits, resume
from palimpsest.edits import Erasure
from palimpsest.methods import dm2
from palimpsest.types import Model

SMALL: dict[str, Any] = {
    "max_loops": 2, "tau": -2.0, "mine_steps": 3, "steps": 3, "length": 3, "bank": 3, "sampler_steps": 2, "lr": 1e-3, "images_per_loop": 2,
    "clip_model": str(TOP / "data/mini/clip"),
}  # fmt: skip


@pytest.fixture(scope="module")
def unchanged(concept: Any, images: Any) -> Erasure:
    return dm2.erase(random_model(), concept, images, seed=0, **SMALL)


def eps(model: Model, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return model.unet(x, t, text.expand(len(x), -1, -1)).sample


def test_mining_is_equation_5_by_plain_steps(tiny: Model, images: Any) -> None:
    latents = diffusion.moments(tiny, images.only("pool").pixels([0, 1]))
    start = torch.randn((1, 3, 32), generator=torch.Generator().manual_seed(5))
    made, curve = dm2.mine(
        tiny, start, latents, torch.Generator().manual_seed(6), dm2.squared("sum"), 0, steps=4, lr=0.1, clip=10.0, schedule={2: 0.1},
        optimiser="sgd",
    )  # fmt: skip
    descent = plain.Descent("sgd", {}, 0.1, 10.0, {2: 0.1})
    pixels, draws = images.only("pool").pixels([0, 1]), torch.Generator().manual_seed(6)
    c, losses = plain.mine(tiny, tiny.unet, start, pixels, draws, descent, 4)
    assert [row["loss"] for row in curve] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(made, c, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keep", [["anchor", "zero", "minus"], ["zero"], ["anchor", "minus"], []])
def test_circumventing_is_equations_7_and_8_by_plain_steps(keep: list[str]) -> None:
    student, teacher = random_model(), random_model()
    ch, c0 = torch.randn(1, 3, 32), torch.randn(1, 24, 32)
    pictures = torch.randn(2, 1, 4, 16, 16)
    with edits.lora(student, "unet.*.to_v.weight", rank=2, generator=torch.Generator().manual_seed(1)) as edit:
        with torch.no_grad():
            for p in edit.parameters:
                p.add_(0.05)
        start = {name: p.detach().clone() for name, p in edit.trained.items()}
        curve = dm2.circumvent(
            edit, lambda step: (ch, pictures[step]), c0, torch.Generator().manual_seed(2), dm2.squared("sum"), 1, 1.0, 0.5, keep,
            steps=2, lr=1e-4, clip=100.0, schedule={1: 0.1}, optimiser="sgd",
        )  # fmt: skip
        made = {name: p.detach().clone() for name, p in edit.trained.items()}
        with torch.no_grad():
            for name, p in edit.trained.items():
                p.copy_(start[name])
        draws = torch.Generator().manual_seed(2)
        for step in range(2):
            x = pictures[step]
            t = torch.randint(1000, (1,), generator=draws)
            x_t = diffusion.noised(student, x, t, torch.randn(1, 4, 16, 16, generator=draws))
            texts = {"anchor": c0, "zero": 0 * ch, "minus": -ch}
            loss = (eps(student, x_t, t, ch) - eps(teacher, x_t, t, c0)).pow(2).sum()
            for name in keep:
                loss = loss + 0.5 * (eps(student, x_t, t, texts[name]) - eps(teacher, x_t, t, texts[name])).pow(2).sum()
            gradients = torch.autograd.grad(loss, edit.parameters, allow_unused=True)
            norm = torch.stack([g.norm() for g in gradients if g is not None]).norm().item()
            assert curve[step]["loss"] == pytest.approx(loss.item(), rel=1e-4)
            with torch.no_grad():
                for p, g in zip(edit.parameters, gradients, strict=True):
                    if g is not None:
                        p.sub_(1e-4 * (0.1 if step else 1) * min(1.0, 100.0 / (norm + 1e-6)) * g)
        for name, p in edit.trained.items():
            torch.testing.assert_close(made[name], p.detach(), atol=1e-6, rtol=1e-4)


def test_delta_is_equation_6() -> None:
    x_c, x_r, pool, texts = torch.randn(1, 8), torch.randn(1, 8), torch.randn(5, 8), torch.randn(2, 8)
    rows = torch.tensor([1, 3, 4])
    said = dm2.clip.signals(x_c, x_r, pool[rows], texts)
    by_hand = sum(cosine_similarity(x_c[0] - x_r[0], pool[n] - x_r[0], dim=0).item() for n in (1, 3, 4)) / 3
    assert said["delta"] == pytest.approx(by_hand, abs=1e-5)
    assert said["pool"] == pytest.approx(sum(cosine_similarity(x_c[0], pool[n], dim=0).item() for n in (1, 3, 4)) / 3, abs=1e-5)
    assert said["photo"] == pytest.approx(cosine_similarity(x_c[0], texts[0], dim=0).item(), abs=1e-5)
    assert said["text"] == pytest.approx(cosine_similarity(x_c[0], texts[1], dim=0).item(), abs=1e-5)
    assert said["reference"] == pytest.approx(cosine_similarity(x_c[0], x_r[0], dim=0).item(), abs=1e-5)
    assert set(said) == {"delta", "photo", "text", "reference", "pool"}


def test_the_log_holds_every_loop(tiny: Model, concept: Any, images: Any) -> None:
    made = dm2.erase(tiny, concept, images, seed=0, **SMALL)
    assert [len(row["mine"]) for row in made.log] == [3, 3] and [len(row["circumvent"]) for row in made.log] == [3, 3]
    assert all(set(row["signals"]) == set(row["signals_after"]) and "gradient_norm" in row["mine"][0] for row in made.log)
    steps = [step for row in made.log for step in row["circumvent"]]  # their sum with alpha_c 1, alpha_p 0.5
    assert [step["loss"] for step in steps] == pytest.approx([step["l_c"] + 0.5 * step["l_p"] for step in steps], rel=1e-6)
    assert {name for name in made.found if name.startswith("embedding")} == {"embedding-00", "embedding-01"}
    assert made.found["embedding-00"].shape == (3, 32)
    assert made.found["loop-01-before"].dtype == torch.uint8 and made.found["loop-01-after"].shape == (1, 3, 64, 64)


def test_the_verifier_s_texts_and_pictures(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    texts, seen = dm2.clip.texts, dm2.clip.images
    looked: list[torch.Tensor] = []
    monkeypatch.setattr(dm2.clip, "texts", lambda eye, said: read.append(list(said)) or texts(eye, said))
    monkeypatch.setattr(dm2.clip, "images", lambda eye, pixels: looked.append(pixels) or seen(eye, pixels))
    made = dm2.erase(tiny, concept, images, seed=0, **SMALL)
    assert read == [["a photo", "a church photo"]]
    assert [row["pictures"] for row in made.log] == [list(dict.fromkeys(row["pictures"])) for row in made.log]
    assert all(len(row["pictures"]) == 2 for row in made.log)
    names = [f"loop-{loop:02d}-{when}" for loop in (0, 1) for when in ("before", "after")]
    for name, under_c, under_anchor in zip(names, looked[1::2], looked[2::2], strict=True):  # behind the pool's
        assert torch.equal(made.found[name], dm2.to_bytes(under_c)) and not torch.equal(under_c, under_anchor)


def test_c_begins_at_the_text_of_the_concept(tiny: Model, concept: Any, images: Any) -> None:
    settings = {**SMALL, "mine_steps": 0, "max_loops": 1, "length": 24, "initialisation": "text"}
    made = dm2.erase(tiny, concept, images, seed=0, **settings)
    assert torch.equal(made.found["embedding-00"], diffusion.encode(tiny, ["a church photo"])[0])
    with pytest.raises(ValueError, match="length 25 is more than a text of 24"):
        dm2.erase(tiny, concept, images, seed=0, **{**settings, "length": 25})


@pytest.mark.parametrize("signal", ["delta", "photo", "text", "reference", "pool"])
def test_the_signal_asked_for_is_compared_with_tau(signal: Any, concept: Any, images: Any) -> None:
    made = dm2.erase(random_model(), concept, images, seed=0, **SMALL, signal=signal)
    assert all(row["s"] == row["signals"][signal] and row["s_after"] == row["signals_after"][signal] for row in made.log)
    first = made.log[0]["s"]
    for tau, found in ((first - 1e-4, 1), (first + 1e-4, 0)):
        settings = {**SMALL, "tau": tau, "max_loops": 1}
        again = dm2.erase(random_model(), concept, images, seed=0, **settings, signal=signal)
        assert sum(name.startswith("embedding") for name in again.found) == found


def test_the_original_or_the_student_draws_for_the_verifier(concept: Any, images: Any) -> None:
    settings = {**SMALL, "max_loops": 1, "lr": 1e-2}
    student, original = (
        dm2.erase(random_model(), concept, images, seed=0, **settings, verify_model=who)  # type: ignore[arg-type]
        for who in ("student", "original")
    )
    assert torch.equal(student.found["loop-00-before"], original.found["loop-00-before"])  # B = 0: they are one
    assert student.log[0]["signals_after"] != original.log[0]["signals_after"]


def test_each_loop_s_seconds_are_counted_over_a_kill(tmp_path: Any, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, descend, begun = {**SMALL, "max_loops": 2}, dm2.descend, time.perf_counter()

    def killed(*given: Any, **how: Any) -> Any:
        made = descend(*given, **how)
        if how["title"] == "circumvent":
            raise KeyboardInterrupt
        return made

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path):
        patch.setattr(dm2, "descend", killed)
        dm2.erase(random_model(), concept, images, seed=0, **settings)
    with resume.resumable(tmp_path) as kept:
        dm2.erase(random_model(), concept, images, seed=0, **settings)
    assert set(kept.laps) == {"loop-00", "loop-01"}
    assert kept.laps["loop-00"] > kept.seconds > 0  # of which the first run's share is the training and what was drawn
    assert sum(kept.laps.values()) < time.perf_counter() - begun


def test_a_loop_that_finds_nothing_ends_it(tiny: Model, concept: Any, images: Any) -> None:
    for patience in (1, 3):
        settings = {**SMALL, "tau": 2.0, "max_loops": 5, "patience": patience}
        assert len(dm2.erase(tiny, concept, images, seed=0, **settings).log) == patience


@pytest.mark.parametrize(
    "setting",
    [
        {"initialisation": "zeros"}, {"initialisation": "text"}, {"loss_reduction": "mean"}, {"x_source": "student"}, {"x_source": "pool"},
        {"replay_granularity": "loop"}, {"keep": ["anchor"]}, {"location": "query"}, {"location": "key"}, {"verify_shared_seed": False},
        {"mining": False}, {"replay": 0.0}, {"anchor": ""}, {"bank": None}, {"x_space": "image"}, {"mine_clip": 0.1}, {"clip_norm": 0.1},
        {"alpha_c": 2.0}, {"alpha_p": 2.0}, {"momentum": 0.5}, {"weight_decay": 0.5}, {"mine_lr": 1.0}, {"mine_schedule": {1: 0.0}},
        {"schedule": {1: 0.0}}, {"optimiser": "adam"}, {"optimiser": "adamw"}, {"images_per_loop": 3}, {"guidance": 3.0},
    ],
    ids=str,
)  # fmt: skip
def test_every_choice_changes_the_result(setting: dict, unchanged: Erasure, concept: Any, images: Any) -> None:
    made = dm2.erase(random_model(), concept, images, seed=0, **{**SMALL, **setting})
    assert made.tensors.keys() != unchanged.tensors.keys() or any(
        not torch.equal(made.tensors[key], unchanged.tensors[key]) for key in made.tensors
    )


def test_without_a_bank_every_step_has_pictures_of_its_own(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn under the embedding that the step circumvents, an earlier one too."""
    pictures: dict[bytes, torch.Tensor] = {}
    used: list[bytes] = []
    under: list[torch.Tensor] = []
    denoise, noised, predictions = dm2.denoise, dm2.noised, dm2.predictions

    def drawing(model: Model, z: torch.Tensor, mix: Any, steps: int) -> Any:
        made = denoise(model, z, mix, steps)
        texts = mix[1][0].expand(len(z), -1, -1)
        pictures.update({row.numpy().tobytes(): text for row, text in zip(made[0], texts, strict=True)})
        return made

    def noising(model: Model, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(x) == settings["batch"]:  # and not as many as a loop mines from
            used.extend(row.numpy().tobytes() for row in x)
        return noised(model, x, *rest)

    def predicting(model: Model, x: torch.Tensor, t: Any, texts: Any, *rest: Any) -> Any:
        if len(texts) == 4 and torch.is_grad_enabled():  # the student's, whose first text is the embedding
            under.extend(texts[0].detach())
        return predictions(model, x, t, texts, *rest)

    settings = {**SMALL, "bank": None, "batch": 2, "steps": 4, "max_loops": 3, "replay": 0.3, "images_per_loop": 3}
    for name, spy in {"denoise": drawing, "noised": noising, "predictions": predicting}.items():
        monkeypatch.setattr(dm2, name, spy)
    made = dm2.erase(tiny, concept, images, seed=0, **settings)
    circumvented = list(zip(used, under, strict=True))
    assert len(circumvented) == len(set(used)) == 3 * 4 * 2
    assert all(torch.equal(pictures[key], c) for key, c in circumvented)
    found = [made.found[f"embedding-{n:02d}"] for n in range(3)]
    taken = [next(n for n, c in enumerate(found) if torch.equal(c, text)) for _, text in circumvented]
    assert taken[:8] == [0] * 8 and set(taken[8:]) == {0, 1, 2}


@pytest.mark.parametrize("bank", [None, 3])
def test_steps_answered_together_change_only_rounding(bank: int | None, double: None, concept: Any, images: Any) -> None:
    settings = {**SMALL, "bank": bank, "batch": 2, "steps": 5, "max_loops": 3, "replay": 0.5}
    one, many = (dm2.erase(random_model(), concept, images, seed=0, **settings, ahead=ahead) for ahead in (1, 3))
    for key, value in one.tensors.items():
        torch.testing.assert_close(many.tensors[key], value, rtol=1e-9, atol=1e-12)


def test_killed_and_resumed_nothing_is_drawn_again(
    unchanged: Erasure, tmp_path: Any, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, calls = dm2.denoise, []

    def counted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == killed:
            raise KeyboardInterrupt
        return denoise(*given)

    monkeypatch.setattr(dm2, "denoise", counted)
    killed = 9  # two pictures of the verifier before and behind a loop, and a bank: within the second loop
    with pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path):
        dm2.erase(random_model(), concept, images, seed=0, **SMALL)
    killed, before = 0, len(calls)
    with resume.resumable(tmp_path):
        again = dm2.erase(random_model(), concept, images, seed=0, **SMALL)
    assert len(calls) - before == 2 * 5 - 8  # the pair under way begins anew
    assert all(torch.equal(again.tensors[key], unchanged.tensors[key]) for key in unchanged.tensors) and again.log == unchanged.log


def test_an_empty_schedule_is_constant(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, descend = [], dm2.descend
    monkeypatch.setattr(dm2, "descend", lambda *a, schedule, **b: taken.append(schedule) or descend(*a, schedule=schedule, **b))
    for schedules in ({}, {"mine_schedule": {}, "schedule": {}}):
        dm2.erase(tiny, concept, images, seed=0, **{**SMALL, "max_loops": 1, **schedules})
    assert taken == [{500: 0.1}, {800: 0.1}, {}, {}]


def test_the_verifier_s_picture_may_show_something_else(unchanged: Erasure, concept: Any, images: Any) -> None:
    other = dm2.erase(random_model(), concept, images, seed=0, **SMALL, reference="a dog")
    assert all(torch.equal(unchanged.tensors[key], other.tensors[key]) for key in unchanged.tensors)  # nothing else depends on it
    assert unchanged.log[0]["signals"]["reference"] != other.log[0]["signals"]["reference"]


def test_a_padded_context_is_the_same_context(concept: Any, images: Any) -> None:
    plain, padded = (
        dm2.erase(random_model(), concept, images, seed=0, **SMALL, context=context)  # type: ignore[arg-type]
        for context in ("direct", "padded77")
    )
    for key in plain.tensors:
        torch.testing.assert_close(padded.tensors[key], plain.tensors[key], atol=1e-4, rtol=1e-3)


def test_too_few_pictures_are_said(tiny: Model, concept: Any, images: Any) -> None:
    with pytest.raises(ValueError, match=r"images_per_loop: 9 .* pool has 6"):
        dm2.erase(tiny, concept, images, seed=0, images_per_loop=9)
