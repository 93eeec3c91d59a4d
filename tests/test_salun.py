"""SalUn: its mask, its step and its promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Killed, dying, preset, random_model
from plain.salun import by_sorting, gradients, remapped, summed
from plain.salun import erase as plain
from torch import Tensor
from torch.utils.data import DataLoader

from palimpsest import data, diffusion, edits, resume
from palimpsest.data import Concept, Images
from palimpsest.methods import salun
from palimpsest.types import Model

CONCEPTS = ("nudity", "violence", "church", "french_horn", "van_gogh", "crayon")
QUICK: dict[str, Any] = {"batch": 4, "lr": 1e-3}
TEXTS = {"forget_text": "a church", "remap_text": "a tree", "retain_text": "a photo of a tree"}


@pytest.mark.parametrize("given", [{}, TEXTS])
def test_erasure_equals_the_two_stages_written_out(tiny: Model, concept: Concept, images: Images, given: dict) -> None:
    own, kept = ([row.prompt.text for row in images.only(role).rows] for role in ("pool", "anchor"))
    remap = [given.get("remap_text", text) for text in kept]
    own, kept = [given.get("forget_text", text) for text in own], [given.get("retain_text", text) for text in kept]
    draws = torch.Generator().manual_seed(5)
    sizes = {name: g.abs() for name, g in summed(gradients(tiny, images, draws, texts=own, batch=4)).items()}
    wanted = remapped(tiny, images, by_sorting(sizes, 0.5), draws, texts=[own, remap, kept], batch=4, alpha=0.3, lr=1e-3)
    made = edits.weights(tiny, salun.erase(tiny, concept, images, seed=5, alpha=0.3, **QUICK, **given))
    before = edits.parameters(tiny, "unet.*")
    for name, p in before.items():  # weights move by 2e-3; a float32 of 1 ends at 1e-7
        torch.testing.assert_close(made.get(name, p.detach()), wanted[name], atol=5e-6, rtol=0)
    moved = sum(int((made[name] != p).sum()) for name, p in before.items() if name in made)
    assert moved / sum(p.numel() for p in before.values()) == pytest.approx(0.5, abs=0.01)


def test_a_full_mask_is_dense_training(tiny: Model, concept: Concept, images: Images) -> None:
    draws = torch.Generator().manual_seed(5)
    gradients(tiny, images, draws, texts=["a church"] * 6, batch=4)  # spends the draws of stage 1
    lists = [[text] * 6 for text in TEXTS.values()]
    everything = {name: torch.ones(()) for name in edits.parameters(tiny, "unet.*")}
    wanted = remapped(tiny, images, everything, draws, texts=lists, batch=4, alpha=0.1, lr=1e-3)
    made = salun.erase(tiny, concept, images, seed=5, share=1.0, **QUICK, **TEXTS).tensors
    assert made.keys() == everything.keys()
    for name, value in made.items():
        torch.testing.assert_close(value, wanted[name], atol=5e-6, rtol=0)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """The tiny model in float64: Adam's first steps are signs, and make much of a rounding."""
    read = data.to_tensor
    monkeypatch.setattr(data, "to_tensor", lambda picture: read(picture).double())
    torch.set_default_dtype(torch.float64)
    try:
        yield random_model()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("given", [{}, TEXTS])
@pytest.mark.parametrize("retained", [6, 5, 3])  # in batches of 4, beside 4 and 2 to forget: 4 and 2, 4 and 1, 3 and 3
def test_short_batches_of_retained_pictures_are_written_out_alike(
    exact: Model, concept: Concept, images: Images, given: dict, retained: int
) -> None:
    some = replace(images, rows=[*images.only("pool").rows, *images.only("anchor").rows[:retained]])
    settings = {"share": 1.0, "alpha": 0.3, "epochs": 2, **QUICK, **given}
    wanted, made = plain(exact, concept, some, seed=5, **settings), salun.erase(exact, concept, some, seed=5, **settings).tensors
    before = edits.parameters(exact, "unet.*")
    assert made.keys() == wanted.keys() and min((made[name] - p).abs().max().item() for name, p in before.items()) > 1e-4
    for name, value in made.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-10, rtol=0)


def mask_of(model: Model, images: Images, *, seed: int, share: float = 0.5, rule: str = "share") -> dict[str, Tensor]:
    """The mask that `erase` makes with QUICK and TEXTS."""
    latents = diffusion.moments(model, images.only("pool").pixels())
    with edits.dense(model, "unet.*") as edit:
        texts, draws = salun.contexts(model, "a church", [""] * len(latents)), torch.Generator().manual_seed(seed)
        sizes = salun.saliency(model, edit.trained, latents, texts, guidance=7.5, batch=4, draws=draws)
    return salun.select(sizes, share, rule)


@pytest.mark.parametrize("variant, share", [("full", 0.5), ("full", 0.1), ("xattn", 0.5)])
def test_weights_outside_the_mask_keep_every_bit(tiny: Model, concept: Concept, images: Images, variant: Any, share: float) -> None:
    for p in tiny.unet.parameters():
        p.data.flatten()[::7] = -0.0  # equal to zero, but not in its bits
    before = {name: p.detach().clone() for name, p in edits.parameters(tiny, "unet.*").items()}
    made = salun.erase(tiny, concept, images, seed=3, share=share, variant=variant, epochs=3, **QUICK, **TEXTS).tensors
    masks = mask_of(tiny, images, seed=3, share=share)
    assert all(("attn2" in name) or variant == "full" for name in made)
    inside = 0
    for name, p in before.items():
        same = made.get(name, p).view(torch.int32) == p.view(torch.int32)
        assert bool(same[~masks[name]].all()), name
        inside += int((~same).sum())
    allowed = sum(int(mask.sum()) for name, mask in masks.items() if variant == "full" or "attn2" in name)
    assert 0.98 * allowed < inside <= allowed


def test_only_tensors_that_changed_are_stored(tiny: Model, concept: Concept, images: Images) -> None:
    before = {name: p.detach().clone() for name, p in edits.parameters(tiny, "unet.*").items()}
    made = salun.erase(tiny, concept, images, seed=3, share=0.001, **QUICK)
    masks = mask_of(tiny, images, seed=3, share=0.001)
    assert 0 < len(made.tensors) < len(before) and made.kind == "weights"
    assert all(not torch.equal(value, before[name]) for name, value in made.tensors.items())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(0.001 * sum(p.numel() for p in before.values()))


def uneven(case: str) -> dict[str, Tensor]:
    """Sizes of several parameters: spread over all magnitudes, with many equals, mostly zero, or with the extremes of float32."""
    draws = torch.Generator().manual_seed(1)
    spread = torch.exp(20 * torch.randn(3001, generator=draws))
    line = {
        "spread": spread,
        "close": 1 + torch.rand(3001, generator=draws) * 1e-4,  # the upper 16 bits are all the same
        "equals": (torch.rand(3001, generator=draws) * 5).round() / 7,
        "zeros": spread * (torch.rand(3001, generator=draws) < 0.2),
        "constant": torch.full((3001,), 0.3),
        "extremes": torch.cat([torch.tensor([0.0, 1e-45, 1e-40, 3e38, math.inf]), spread[5:]]),
    }[case]
    return {"a": line[:1000].view(10, 100), "b": line[1000:1001].view(()), "c": line[1001:].view(50, 40)}


@pytest.mark.parametrize("case", ["spread", "close", "equals", "zeros", "constant", "extremes"])
@pytest.mark.parametrize("share", [1e-4, 0.001, 0.25, 0.5, 0.9, 1.0])
def test_the_mask_is_the_one_of_two_sorts_and_has_its_share(case: str, share: float) -> None:
    sizes = uneven(case)
    made, wanted = salun.select(sizes, share, "share"), by_sorting(sizes, share)
    assert all(torch.equal(made[name], wanted[name]) for name in sizes)
    assert sum(int(mask.sum()) for mask in made.values()) == int(3001 * share)


@pytest.mark.parametrize("case", ["spread", "close", "equals", "zeros", "constant"])
@pytest.mark.parametrize("even", [True, False])
def test_the_median_rule_is_the_papers(case: str, even: bool) -> None:
    sizes = uneven(case)
    if even:
        del sizes["b"]
    median = torch.cat([size.flatten() for size in sizes.values()]).median()
    made = salun.select(sizes, 0.1, "median")
    assert all(torch.equal(made[name], size >= median) for name, size in sizes.items())


def test_gradients_are_summed_with_their_signs(tiny: Model, images: Images) -> None:
    parts = gradients(tiny, images, torch.Generator().manual_seed(7), texts=["a church"] * 6, batch=2)
    signed = {name: g.abs() for name, g in summed(parts).items()}
    sizes = summed([{name: g.abs() for name, g in part.items()} for part in parts])
    latents = diffusion.moments(tiny, images.only("pool").pixels())
    with edits.dense(tiny, "unet.*") as edit:
        texts, draws = salun.contexts(tiny, "a church", [""] * 6), torch.Generator().manual_seed(7)
        made = salun.saliency(tiny, edit.trained, latents, texts, guidance=7.5, batch=2, draws=draws)
    for name, size in made.items():
        torch.testing.assert_close(size, signed[name], atol=1e-5 * float(signed[name].max()), rtol=1e-3)
    ours, theirs = (torch.cat([m.flatten() for m in salun.select(s, 0.5, "share").values()]) for s in (made, sizes))
    assert ours.sum() == theirs.sum() and (ours != theirs).float().mean() > 0.05


def test_an_empty_text_is_a_text(tiny: Model) -> None:
    own = ["a church", "a dog", "a church"]
    assert torch.equal(salun.contexts(tiny, None, own), diffusion.encode(tiny, ["a church", "a dog"])[[0, 1, 0]])
    assert torch.equal(salun.contexts(tiny, "", own), diffusion.encode(tiny, [""]).expand(3, -1, -1))


def test_both_sets_begin_again_with_every_pass() -> None:
    draws = torch.Generator().manual_seed(0)
    made = salun.plan(5, 3, 2, 2, False, "2026", draws)
    assert [(rows.tolist(), others.tolist()) for rows, others in made] == [([0, 1], [0, 1]), ([2, 3], [2]), ([4], [0, 1])] * 2


class Drawn(list):
    """Row numbers in a new order at every pass."""

    draws: torch.Generator

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(len(self), generator=self.draws).tolist())


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("forget, retained", [(7, 13), (9, 4), (6, 6), (5, 2), (2, 9)])
def test_rows_are_those_of_two_data_loaders(forget: int, retained: int, shuffle: bool) -> None:
    order = Drawn(range(retained))
    order.draws = torch.Generator().manual_seed(2)
    forgotten = DataLoader(range(forget), batch_size=3)  # type: ignore[arg-type]
    kept = DataLoader(range(retained), batch_size=3, sampler=order if shuffle else None)  # type: ignore[arg-type]
    wanted = []
    for _ in range(2):
        again = chain.from_iterable(kept for _ in count())
        wanted += [(rows.tolist(), next(again).tolist()) for rows in forgotten]
    made = salun.plan(forget, retained, 3, 2, shuffle, "2026", torch.Generator().manual_seed(2))
    assert [(rows.tolist(), others.tolist()) for rows, others in made] == wanted


def test_the_loader_of_2023_shows_the_first_batch_for_ever() -> None:
    made = salun.plan(5, 9, 2, 2, False, "2023", torch.Generator())
    assert [(rows.tolist(), others.tolist()) for rows, others in made] == [([0, 1], [0, 1])] * 6
    mixed = salun.plan(5, 9, 2, 2, True, "2023", torch.Generator().manual_seed(0))
    assert all(rows.tolist() == [0, 1] for rows, _ in mixed) and len({tuple(others.tolist()) for _, others in mixed}) > 3


def test_shuffled_retained_pictures_are_each_seen_once_a_pass() -> None:
    made = salun.plan(8, 8, 2, 2, True, "2026", torch.Generator().manual_seed(0))
    passes = [torch.cat([others for _, others in made[first : first + 4]]).tolist() for first in (0, 4)]
    assert passes[0] != passes[1] and all(sorted(seen) == list(range(8)) for seen in passes)
    assert torch.cat([rows for rows, _ in made]).tolist() == [*range(8)] * 2


def test_model_is_as_it_was(tiny: Model, concept: Concept, images: Images, state: Callable) -> None:
    before, stream = state(tiny), torch.get_rng_state()
    salun.erase(tiny, concept, images, seed=3, **QUICK)
    after = state(tiny)
    assert all(torch.equal(before[key], after[key]) for key in before) and torch.equal(stream, torch.get_rng_state())
    assert not any(p.requires_grad or p.grad is not None or p._backward_hooks for p in tiny.unet.parameters())


def test_a_failing_run_leaves_no_hook(tiny: Model, concept: Concept, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(salun, "descend", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        salun.erase(tiny, concept, images, seed=3, **QUICK)
    assert not any(p.requires_grad or p._backward_hooks for p in tiny.unet.parameters())


def test_same_seed_same_tensors_and_the_disk_keeps_them(concept: Concept, images: Images, tmp_path: Path) -> None:
    made = [salun.erase(random_model(), concept, images, seed=seed, **QUICK).tensors for seed in (3, 3, 4)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert any(not torch.equal(made[0][name], made[2][name]) for name in made[0])
    model = random_model()
    edits.Erasure("weights", made[0]).save(tmp_path / "e.json", {})
    edits.apply(model, edits.load(tmp_path / "e.json"))
    assert all(torch.equal(p, made[0][name]) for name, p in edits.parameters(model, "unet.*").items() if name in made[0])


def test_a_killed_run_resumes_to_the_same_bytes(concept: Concept, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: str, killed_at: int | None = None) -> dict[str, Tensor]:
        monkeypatch.setattr(salun, "descend", dying(killed_at))
        with resume.resumable(tmp_path / folder):
            return dict(salun.erase(random_model(), concept, images, seed=3, shuffle=True, epochs=2, **{**QUICK, **TEXTS}).tensors)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", 2)
    again = run("killed")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.fixture(scope="module")
def plainly(concept: Concept, images: Images) -> tuple[Model, dict[str, Tensor]]:
    model = random_model()
    return model, dict(salun.erase(model, concept, images, seed=3, share=0.4, epochs=2, **QUICK).tensors)


@pytest.mark.parametrize(
    "setting",
    [
        {"form": "2023"}, {"variant": "xattn"}, {"rule": "median"}, {"share": 0.3}, {"mask_guidance": 2.0}, {"forget_text": "church"},
        {"remap_text": "a photo"}, {"retain_text": "a photo"}, {"pictures": 5}, {"shuffle": True}, {"alpha": 0.9}, {"epochs": 1},
        {"batch": 3}, {"lr": 5e-4},
    ],
)  # fmt: skip
def test_every_setting_matters(concept: Concept, images: Images, plainly: tuple, setting: dict) -> None:
    model, tensors = plainly
    other = salun.erase(model, concept, images, seed=3, **{"share": 0.4, "epochs": 2, **QUICK, **setting}).tensors
    assert tensors.keys() != other.keys() or any(not torch.equal(tensors[name], other[name]) for name in tensors)


@pytest.mark.parametrize("role, key", [("pool", "images"), ("anchor", "anchors")])
def test_missing_pictures_are_named_before_any_work(tiny: Model, concept: Concept, images: Images, role: str, key: str) -> None:
    without = replace(images, rows=[row for row in images.rows if row.role != role])
    with pytest.raises(ValueError, match=f"{role!r}.*pool: {{{key}: 96}}.*params.yaml"):
        salun.erase(tiny, concept, without, seed=0)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, 1e-9, float("nan")])
def test_a_share_that_is_none_is_refused(tiny: Model, concept: Concept, images: Images, share: float) -> None:
    with pytest.raises(ValueError, match=f"^salun: share is {share}; .* make it enough for one, and 1 at most$"):
        salun.erase(tiny._replace(vae=None), concept, images, seed=0, share=share)


def test_a_share_of_one_weight_is_one(tiny: Model, concept: Concept, images: Images) -> None:
    total = sum(p.numel() for p in tiny.unet.parameters())
    made = salun.erase(tiny, concept, images, seed=3, share=1.5 / total, **QUICK).tensors
    assert sum(int((value != edits.parameters(tiny, "unet.*")[name]).sum()) for name, value in made.items()) == 1


@pytest.mark.parametrize("setting", ["forget_text", "remap_text", "retain_text"])
def test_a_text_with_other_braces_is_refused(tiny: Model, concept: Concept, images: Images, setting: str) -> None:
    settings: dict[str, Any] = {setting: "a {word}"}
    with pytest.raises(ValueError, match=f"^salun: {setting}: unknown {{word}} in 'a {{word}}'; allowed: {{concept}}, {{adjective}}$"):
        salun.erase(tiny._replace(vae=None), concept, images, seed=0, **settings)


def test_texts_of_the_presets_name_the_concept(tiny: Model, concept: Concept, images: Images) -> None:
    assert preset("salun", "official", "nudity")["remap_text"] == "a photo of a person wearing clothes"
    assert preset("salun", "official", "french_horn")["remap_text"] == "an image of a garbage truck"
    assert preset("salun", "darkminer", "church")["forget_text"] == "a {adjective} photo"
    quick = {"batch": 4, "lr": 1e-3, "pictures": 4}
    named = salun.erase(tiny, concept, images, seed=0, forget_text="an image of a {concept}", remap_text="a {adjective} photo", **quick)
    said = f"an image of a {concept.word}", f"a {concept.adjective} photo"
    spelled = salun.erase(tiny, concept, images, seed=0, forget_text=said[0], remap_text=said[1], **quick)
    assert all(torch.equal(named.tensors[name], spelled.tensors[name]) for name in spelled.tensors)
