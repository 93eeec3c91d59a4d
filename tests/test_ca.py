"""Concept Ablation against its equations in plain loops, and what makes the official code what it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import on_disk, preset, random_model
from PIL import Image
from plain.ca import erase as plain
from torch import Tensor

from palimpsest import data, edits
from palimpsest.methods import ca
from palimpsest.types import Model

PLAIN: dict[str, Any] = {"augment": False, "hflip": False}
QUICK: dict[str, Any] = {"steps": 2, "batch": 2, "lr": 1e-3}


@pytest.mark.parametrize(
    "variant, teacher, prior, trained, augment, detach",
    [
        ("model-based", "current", 0.0, "cross-attn", True, True),
        ("model-based", "frozen", 0.7, "attn", False, True),
        ("noise-based", "current", 1.0, "cross-attn", False, False),
    ],
)
def test_training_is_the_plain_form(
    tiny: Model, concept: Any, images: Any, variant: Any, teacher: Any, prior: float, trained: Any, augment: bool, detach: bool
) -> None:
    made = ca.erase(
        tiny, concept, images, seed=5, variant=variant, teacher=teacher, prior_weight=prior, trained=trained, augment=augment,
        detach_start=detach, steps=3, batch=2, lr=1e-3,
    )  # fmt: skip
    wanted = plain(
        random_model(), concept, images, seed=5, variant=variant, teacher=teacher, prior_weight=prior, trained=trained, augment=augment,
        detach_start=detach, steps=3, batch=2, lr=1e-3,
    )  # fmt: skip
    before = edits.parameters(tiny, ca.WHERE[trained])
    assert made.tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        moved = (value - before[name]).abs().max()
        assert moved > 1e-4, name  # a step of AdamW is about lr
        ours, theirs = (a - before[name] for a in (made.tensors[name], value))
        assert (ours - theirs).norm() < 1e-3 * theirs.norm(), name  # of the change; seen: 5e-5


def test_the_loss_and_its_gradient_vanish_where_the_target_is_the_anchor(tiny: Model, concept: Any, images: Any) -> None:
    made = ca.erase(tiny, concept, images, seed=0, targets=["tree"], weight_decay=0.0, **PLAIN, **QUICK)
    assert [row["loss"] for row in made.log] == pytest.approx([0, 0], abs=1e-9)
    assert [row["gradient_norm"] for row in made.log] == pytest.approx([0, 0], abs=1e-5)
    other = ca.erase(tiny, concept, images, seed=0, weight_decay=0.0, **PLAIN, **QUICK)
    assert other.log[0]["loss"] > 1e-5 and other.log[0]["gradient_norm"] > 1e-4


def test_the_instance_loss_is_four_times_the_mean_over_places_that_count() -> None:
    error = torch.randn(3, 4, 16, 16)
    assert ca.masked(error, torch.ones(3, 1, 16, 16)).item() == pytest.approx(4 * error.pow(2).mean().item(), rel=1e-5)
    mask = torch.zeros(3, 1, 16, 16)
    mask[0, :, 2:5, 3:9], mask[1, :, :4, :4], mask[2, :, 7:, 7:] = 1, 1, 1
    parts = error[0, :, 2:5, 3:9], error[1, :, :4, :4], error[2, :, 7:, 7:]
    assert ca.masked(error, mask).item() == pytest.approx(sum(4 * part.pow(2).mean().item() for part in parts) / 3, rel=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "vanilla"])
def test_the_start_token_is_detached_as_an_attention_written_out_says(tiny: Model, attention: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    if attention == "vanilla":
        tiny.unet.set_attn_processor(AttnProcessor())
    layer = tiny.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    hidden, context = torch.randn(2, 9, layer.to_q.in_features), torch.randn(2, 24, 32)
    weights = {"key": layer.to_k.weight, "value": layer.to_v.weight}
    for p in weights.values():
        p.requires_grad_(True)

    def by_hand() -> Tensor:
        q, k, v = layer.to_q(hidden), layer.to_k(context), layer.to_v(context)
        k, v = (torch.stack([row.detach() if n == 0 else row for n, row in enumerate(part.unbind(1))], 1) for part in (k, v))
        heads = [part.view(2, -1, layer.heads, q.shape[-1] // layer.heads).transpose(1, 2) for part in (q, k, v)]
        seen = (heads[0] @ heads[1].transpose(-1, -2) * layer.scale).softmax(-1) @ heads[2]
        return layer.to_out[0](seen.transpose(1, 2).reshape(2, 9, -1))

    def gradients(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out.pow(2).sum(), list(weights.values()))

    with ca.start_detached(tiny, True):
        detached = layer(hidden, context)
        hooked = {name for name, module in tiny.unet.named_modules() if module._forward_hooks}
    assert hooked == {name for name, _ in tiny.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    torch.testing.assert_close(detached, by_hand(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients(detached), gradients(by_hand()), atol=1e-5, rtol=1e-4)
    with ca.start_detached(tiny, False):
        tied = layer(hidden, context)
    assert torch.equal(tied, detached) and torch.equal(tied, layer(hidden, context))
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(gradients(tied), gradients(by_hand()), strict=True))
    assert not any(module._forward_hooks for module in tiny.unet.modules())


def test_prompts_of_each_kind_are_the_official_ones(concept: data.Concept) -> None:
    def made(kind: str, target: str, form: str = "diffusers") -> list[str]:
        return ca.prompts(replace(concept, kind=kind), "a photo of a tree at night", [target], ca.FORMS[form], "official")[0]

    c = "a photo of a tree at night"
    assert made("style", "monet") == [f"{c}, in the style of monet", f"in monet's style, {c}", f"in monet's style, {c}"]
    assert made("inappropriate", "gore") == [f"gore, {c}", f"in gore style, {c}", f"{c}, gore"]
    assert made("object", "church") == ["a photo of a church at night"]
    twice, once = "monet monet", "monet"
    assert set(made("style", "monet", "compvis")) == {
        text for t in (twice, once) for text in (f"{c}, in the style of {t}", f"{t} inspired painting, {c}", f"in {t}'s style, {c}")
    }  # fmt: skip
    assert len(made("style", "monet", "compvis")) == 6


def test_pairs_are_the_sentences_that_the_anchor_was_made_from(concept: data.Concept) -> None:
    texts = {"pool": ["a church", "a chapel", "a church at sea"], "anchors": ["a tree", "a tree", "a tree at sea"]}
    assert ca.prompts(replace(concept, texts=texts), "a tree", ["unused"], ca.FORMS["diffusers"], "pairs") == [["a church", "a chapel"]]


def test_each_picture_comes_once_a_round_with_its_target_and_kept_picture(concept: data.Concept) -> None:
    said = [f"a tree {n}" for n in range(6)]
    choices = [ca.prompts(concept, c, ["one", "two"], ca.FORMS["diffusers"], "official") for c in said]
    draws = torch.Generator().manual_seed(0)
    stream = ca.rows(said, choices, 64, ca.FORMS["diffusers"], augment=False, hflip=True, draws=draws)
    met: dict[int, set] = {n: set() for n in range(6)}
    mirrored = []
    for _ in range(20):
        erased, kept = zip(*[next(stream) for _ in range(6)], strict=True)
        assert sorted(row.view.row for row in erased) == sorted(row.view.row for row in kept) == list(range(6))
        for a, b in zip(erased, kept, strict=True):
            assert a.anchor == said[a.view.row] and b.told == said[b.view.row] and b.view.scale == 64
            met[a.view.row].add((a.told.split()[1], b.view.row))
            mirrored.append(a.view.mirrored)
    assert all(len(meetings) == 1 for meetings in met.values())
    assert sorted(target for meetings in met.values() for target, _ in meetings) == ["one"] * 3 + ["two"] * 3
    assert 35 < sum(mirrored) < 85  # half of 120


@pytest.mark.parametrize("form", ["diffusers", "compvis"])
def test_augmentation_resizes_and_says_so(concept: data.Concept, form: str) -> None:
    stream = ca.rows(
        ["a tree"] * 4, [[["a church"]]] * 4, 64, ca.FORMS[form], augment=True, hflip=False, draws=torch.Generator().manual_seed(0)
    )  # fmt: skip
    seen = [next(stream)[0] for _ in range(600)]
    for row in seen:
        view, word = row.view, row.told.removesuffix("a church")
        assert row.anchor == "a tree"  # the teacher is not told
        assert 21 <= view.scale <= 64 or 76 <= view.scale < 89
        assert word in (ca.FAR if view.scale < 0.6 * 64 else ca.CLOSE if view.scale > 64 else ("",))
        inside = range(65 - view.scale) if view.scale <= 64 else range(64 - view.scale, 1)
        assert view.top in inside and view.left in inside
    assert 0.60 < np.mean([row.view.scale <= 64 for row in seen]) < 0.73
    whole = np.mean([0.6 * 64 <= row.view.scale <= 64 for row in seen])
    assert (whole > 0.3) and {row.view.scale for row in seen if 0.6 * 64 <= row.view.scale <= 64} >= {64}
    assert ({row.view.scale for row in seen if 0.6 * 64 <= row.view.scale <= 64} == {64}) == (form == "compvis")


@pytest.mark.parametrize("scale, top, left", [(64, 0, 0), (30, 5, 34), (63, 1, 0), (80, -16, -3)])
def test_views_and_what_counts_of_them_are_the_official_arrays(images: data.Images, scale: int, top: int, left: int) -> None:
    anchors = images.only("anchor")
    for mirrored in (False, True):
        view = ca.View(2, mirrored, scale, top, left)
        raw = Image.open(anchors.folder / anchors.rows[2].file).convert("RGB")
        raw = raw.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else raw
        whole = np.array(raw.resize((scale, scale), resample=Image.Resampling.LANCZOS)).astype(np.float32) / 127.5 - 1
        picture, mask = np.zeros((64, 64, 3), np.float32), np.zeros((16, 16))
        if scale > 64:
            picture, mask = whole[-top : 64 - top, -left : 64 - left], np.ones((16, 16))
        else:
            picture[top : top + scale, left : left + scale] = whole
            mask[top // 4 + 1 : (top + scale) // 4 - 1, left // 4 + 1 : (left + scale) // 4 - 1] = 1
        torch.testing.assert_close(ca.seen(anchors, view, ca.FORMS["diffusers"]), torch.tensor(picture).permute(2, 0, 1), atol=1e-6, rtol=0)
        assert torch.equal(ca.counted(view, 64, 16, ca.FORMS["diffusers"])[0], torch.tensor(mask).float())
        assert mask.sum() > 0
        rim = ca.counted(view, 64, 16, ca.FORMS["compvis"]).sum().item() - mask.sum()
        assert rim == (16**2 - 14**2 if scale == 64 else 0)


def test_what_is_trained(tiny: Model, concept: Any, images: Any) -> None:
    names = {trained: set(edits.parameters(tiny, where)) for trained, where in ca.WHERE.items()}
    every = {f"unet.{name}" for name, _ in tiny.unet.named_parameters()}
    assert names["full"] == every
    assert names["attn"] == {name for name in every if any(part in name for part in ("to_q", "to_k", "to_v", "to_out"))}
    assert names["cross-attn"] == {name for name in every if "attn2.to_k" in name or "attn2.to_v" in name}
    for trained, wanted in names.items():
        made = ca.erase(tiny, concept, images, seed=0, trained=trained, **PLAIN, **QUICK)  # type: ignore[arg-type]
        assert set(made.tensors) == wanted
        changed = {name for name, p in edits.parameters(tiny, "unet.*").items() if not torch.equal(made.tensors.get(name, p), p)}
        assert len(changed) > 0.9 * len(wanted)


def test_the_model_is_left_and_the_erasure_applies(tiny: Model, concept: Any, images: Any, state: Callable, tmp_path: Path) -> None:
    before = state(tiny)
    torch.manual_seed(1)
    made = ca.erase(tiny, concept, images, seed=2, trained="attn", prior_weight=1.0, teacher="frozen", **QUICK)
    torch.manual_seed(2)
    again = ca.erase(random_model(), concept, images, seed=2, trained="attn", prior_weight=1.0, teacher="frozen", **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in state(tiny).items())
    assert not any(p.requires_grad for p in tiny.unet.parameters())
    assert not any(module._forward_hooks for module in tiny.unet.modules())
    assert made.log == again.log and all(torch.equal(value, again.tensors[name]) for name, value in made.tensors.items())
    made.save(tmp_path / "e.json", {})
    edits.apply(tiny, edits.load(tmp_path / "e.json"))
    assert all(torch.equal(value, made.tensors.get(name, before[name])) for name, value in state(tiny).items())


@pytest.mark.parametrize(
    "changed",
    [
        {"variant": "noise-based"}, {"targets": ["castle"]}, {"augment": True}, {"hflip": True}, {"prior_weight": 1.0},
        {"teacher": "frozen"}, {"detach_start": False}, {"weight_decay": 0.5}, {"clip": 1e-6, "weight_decay": 0.0},
        {"captions": "pairs", "targets": ["castle"]}, {"form": "compvis"}, {"seed": 1}, {"batch": 3}, {"lr": 2e-3}, {"steps": 3},
    ],
)  # fmt: skip
def test_every_setting_changes_the_outcome(concept: Any, images: Any, changed: dict[str, Any]) -> None:
    plain = {"seed": 0, **PLAIN, **QUICK, **({"targets": ["castle"]} if "captions" in changed else {})}
    made = [ca.erase(random_model(), concept, images, **settings).tensors for settings in (plain, plain | changed)]
    assert any(not torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_a_frozen_teacher_is_the_student_at_the_first_step(concept: Any, images: Any) -> None:
    logs = [ca.erase(random_model(), concept, images, seed=0, teacher=t, **QUICK).log for t in ("current", "frozen")]  # type: ignore[arg-type]
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-5) and logs[0][1]["loss"] != logs[1][1]["loss"]


def test_an_interrupted_run_ends_in_the_same_bytes(concept: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest import optimise, resume

    whole = ca.erase(random_model(), concept, images, seed=0, **QUICK | {"steps": 4})
    stepped, calls = optimise.keep, []

    def keep(*given: Any) -> None:
        stepped(*given)
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt

    descend = ca.descend
    monkeypatch.setattr(optimise, "keep", keep)
    monkeypatch.setattr(ca, "descend", lambda *given, **named: descend(*given, **named, pause=0))
    with pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path / "work"):
        ca.erase(random_model(), concept, images, seed=0, **QUICK | {"steps": 4})
    with resume.resumable(tmp_path / "work"):
        ended = ca.erase(random_model(), concept, images, seed=0, **QUICK | {"steps": 4})
    assert len(calls) == 4 and all(torch.equal(value, ended.tensors[name]) for name, value in whole.tensors.items())


def test_errors_say_what_is_missing(tiny: Model, concept: data.Concept, images: data.Images) -> None:
    with pytest.raises(ValueError, match=r"church: CA learns from pictures of the anchor.*`pool: \{anchors: N\}`"):
        ca.erase(tiny, concept, images.only("pool"), seed=0)
    with pytest.raises(ValueError, match="'building' is not in 'a photo of a tree in a field'; set its `anchor`"):
        ca.erase(tiny, replace(concept, anchor="a building"), images, seed=0)
    with pytest.raises(ValueError, match="no sentence stands beside 'a photo of a tree in a field'"):
        ca.erase(tiny, replace(concept, texts={}), images, seed=0, captions="pairs")


@pytest.mark.parametrize("kind, target", [("style", "van gogh"), ("inappropriate", "nudity")])
def test_other_kinds_run_without_their_anchor_in_the_prompt(tiny: Model, concept: Any, tmp_path: Path, kind: str, target: str) -> None:
    pictures = [torch.rand(3, 64, 64) * 2 - 1 for _ in range(2)]
    images = on_disk(tmp_path / "manifest.json", [data.Prompt("a dog at sea", n) for n in range(2)], pictures, ["anchor"] * 2)
    made = ca.erase(tiny, replace(concept, kind=kind, words=(target,)), images, seed=0, **QUICK)
    assert all(row["loss"] > 0 for row in made.log)


@pytest.mark.parametrize("name", ["official", "darkminer"])
@pytest.mark.parametrize("concept", ["nudity", "violence", "church", "french_horn", "van_gogh", "crayon"])
def test_learning_rates_of_the_presets(name: str, concept: str) -> None:
    """Those that reach the optimiser with --scale_lr: batch, GPUs, prior rows."""
    wanted = 4e-6 * 4 * 2 * 2 if concept in ("nudity", "violence") else 2e-6 * 4 * 2
    default = inspect.signature(ca.erase).parameters["lr"].default
    assert preset("ca", name, concept).get("lr", default) == pytest.approx(wanted)
