"""STEREO against its equations, written out in plain loops, and what the paper promises of its two stages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import preset, random_model
from plain import said
from plain.stereo import DEFAULTS, both
from plain.stereo import search as plain_search
from safetensors.torch import load_file
from torch import Tensor, nn

from palimpsest import data, diffusion, edits, resume, tokens
from palimpsest.methods import stereo
from palimpsest.types import Model

SMALL: dict[str, Any] = {
    "rounds": 2, "ste_steps": 2, "ste_lr": 1e-3, "invert_steps": 2, "invert_lr": 1e-2, "invert_batch": 2, "steps": 3, "lr": 1e-3,
    "batch": 2, "sampler_steps": 4,
}  # fmt: skip
BRIEF = {"rounds": 2, "steps": 1, "lr": 1e-3, "invert_steps": 1, "invert_lr": 1e-2}
SHORT = stereo.Common(sampler_steps=3)
PRESETS = {
    "code": {"eta": 0.0, "w_pos": 1.0, "w_neg": 3.0, "anchors": 1, "latent_alignment": "legacy"},
    "paper": {"eta": 1.0, "w_pos": 1.0, "w_neg": 1.0, "anchors": 2, "latent_alignment": "exact"},
}  # as in data/presets, with fewer anchors
CASES: dict[str, dict[str, Any]] = PRESETS | {
    "official": {"start_from": "piece"}, "xattn": {"layers": "xattn"}, "selfattn": {"layers": "selfattn"}, "full": {"layers": "full"},
}  # fmt: skip
RAW = "tree</w>"  # how the vocabulary spells the word; no text has it


@pytest.fixture(scope="module")
def made(concept: data.Concept, images: data.Images) -> edits.Erasure:
    return stereo.erase(random_model(), concept, images, seed=3, **SMALL)


def same(a: edits.Erasure, b: edits.Erasure) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


@pytest.mark.parametrize("preset", CASES)
def test_both_stages_equal_a_plain_one(preset: str, double: None, concept: Any, images: Any) -> None:
    settings, model = SMALL | CASES[preset], random_model()
    concept = replace(concept, initialiser=RAW) if preset == "official" else concept
    plain, words = both(model, concept, images, settings, seed=5)
    made = stereo.erase(model, concept, images, seed=5, **settings)
    for k, word in enumerate(words):
        torch.testing.assert_close(made.found[f"ste-{k:02}"][0], word, atol=1e-10, rtol=0)
    for name, value in made.tensors.items():
        torch.testing.assert_close(value, plain.unet.get_parameter(name.removeprefix("unet.")).data, atol=1e-10, rtol=0)


def test_ste_alone_is_the_model_that_was_attacked_last(double: None, concept: Any, images: Any) -> None:
    model = random_model()
    plain = plain_search(model, concept, images, DEFAULTS | SMALL, 5)
    made = stereo.erase(model, concept, images, seed=5, **SMALL, stage="ste")
    assert set(made.tensors) == set(edits.parameters(model, stereo.WHERE["noxattn"])) and set(made.log) == {"search"}
    for name, value in made.tensors.items():
        torch.testing.assert_close(value, plain.unet.get_parameter(name.removeprefix("unet.")).data, atol=1e-10, rtol=0)
    words = plain.text_encoder.get_input_embeddings().weight[plain.first :]
    torch.testing.assert_close(torch.cat(list(made.found.values())), words, atol=1e-10, rtol=0)


@pytest.mark.parametrize("start_from, row", [("word", "tree"), ("piece", RAW)])
def test_a_new_word_starts_from_the_initialiser(start_from: str, row: str, tiny: Model, concept: Any) -> None:
    start = stereo.beginning(tiny, replace(concept, initialiser=row), start_from)
    assert torch.equal(start[0], tiny.text_encoder.get_input_embeddings().weight[tiny.tokenizer.get_vocab()[RAW]])


def test_letters_that_are_no_entry_of_the_vocabulary_start_from_the_token_of_unknown_words(tiny: Model, concept: Any) -> None:
    assert "object" not in tiny.tokenizer.get_vocab() and "object</w>" in tiny.tokenizer.get_vocab()
    unknown = tiny.text_encoder.get_input_embeddings().weight[[tiny.tokenizer.unk_token_id]]
    assert torch.equal(stereo.beginning(tiny, concept, "piece"), unknown)
    assert not torch.equal(stereo.beginning(tiny, concept, "word"), unknown)


# The targets.


def test_ste_of_the_code_aims_at_the_unconditional_prediction(tiny: Model) -> None:
    """negative_guidance 2, eta 0: eps_c - (g - 1)(eps_c - eps_u) is eps_u alone, and nothing else is computed."""
    x, text, null = torch.randn(2, 4, 16, 16), torch.randn(1, 24, 32), torch.randn(1, 24, 32)
    mix = stereo.composed(null, [], [text], 0.0, inspect.signature(stereo.search).parameters["eta"].default)
    assert len(mix) == 1 and mix[0][0] is null and mix[0][1] == 1
    assert torch.equal(diffusion.predict(tiny, x, 10, mix), said(tiny.unet, x, 10, null))


@pytest.mark.parametrize("g", [2.0, 3.0, 4.5])
def test_ste_target_is_that_of_the_code(tiny: Model, g: float) -> None:
    x, text, null = torch.randn(2, 4, 16, 16), torch.randn(1, 24, 32), torch.randn(1, 24, 32)
    e_c, e_u = said(tiny.unet, x, 10, text), said(tiny.unet, x, 10, null)
    made = diffusion.predict(tiny, x, 10, stereo.composed(null, [], [text], 0.0, g - 2))
    torch.testing.assert_close(made, e_c - (g - 1) * (e_c - e_u), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made, e_u - (g - 2) * (e_c - e_u), atol=1e-5, rtol=1e-4)  # Equation 4


@pytest.mark.parametrize("w_pos, w_neg", [(1.0, 3.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("anchors, words", [(1, 3), (4, 1), (2, 5)])
def test_reo_target_in_closed_form(w_pos: float, w_neg: float, anchors: int, words: int) -> None:
    """On random tensors in place of predictions: no network between the weights and the equation."""
    u, a, e = (torch.randn(n, 4, 8, 8) for n in (1, anchors, words))
    mix = stereo.composed(u, a.split(1), e.split(1), w_pos, w_neg)
    wanted = u + w_pos * (a.mean(0) - u) - w_neg * (e.mean(0) - u)
    torch.testing.assert_close(sum(w * value for value, w in mix), wanted, atol=1e-5, rtol=1e-5)
    assert sum(w for _, w in mix) == pytest.approx(1)


def test_reo_weights_of_the_code_are_those_of_its_scale_2() -> None:
    """utils/apg.py takes one from a signed scale: +2 gives +1, -2 gives -3."""
    defaults = inspect.signature(stereo.erase).parameters
    assert (defaults["w_pos"].default, -defaults["w_neg"].default) == (2 - 1, -2 - 1)
    u, a, e = torch.randn(1, 2, 2), torch.randn(1, 2, 2), torch.randn(3, 2, 2)
    assert [w for _, w in stereo.composed(u, [a], e.split(1), 1.0, 3.0)] == pytest.approx([3, 1, -1, -1, -1])
    assert stereo.composed(u, [], [e], 1.0, 1.0)[0] == (u, 2.0)  # no anchor: its weight stays with the empty text


def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Tensor], list[Any]]]:
    """What every call of `forget` is to do: title, texts shown and mixes by step."""
    calls: list[tuple[str, list[Tensor], list[Any]]] = []
    forget = stereo.forget

    def noted(model: Model, plan: Any, common: Any, **settings: Any) -> edits.Erasure:
        steps = [plan(step) for step in range(settings["steps"])]
        calls.append((settings["title"], [text for text, _ in steps], [mix for _, mix in steps]))
        return forget(model, plan, common, **settings)

    monkeypatch.setattr(stereo, "forget", noted)
    return calls


@pytest.mark.parametrize("adversarial", [0, 1, 4])
def test_every_target_of_reo_holds_all_erased_texts(
    adversarial: int, tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = plans(monkeypatch)
    made = stereo.erase(tiny, concept, images, seed=3, **SMALL, adversarial=adversarial, anchors=2)
    texts = ["church", "<ste-00>", "<ste-01>"][: 1 + adversarial]
    wanted, null = diffusion.encode(tiny, texts, made.found), diffusion.encode(tiny, [""])
    assert [title for title, *_ in calls] == ["erase church", "erase <ste-00>", "reo"]
    _, shown, mixes = calls[-1]
    for mix in mixes:
        assert torch.equal(mix[0][0], null) and len(mix) == 1 + 2 + len(texts)
        assert torch.equal(torch.cat([text for text, w in mix if w < 0]), wanted)
        assert all(w == pytest.approx(-3 / len(texts)) for _, w in mix if w < 0)
    counts = [sum(torch.equal(row, text) for row in torch.cat(shown)) for text in wanted]
    assert sum(counts) == 6 and max(counts) - min(counts) <= 1  # stratified


def test_ste_erases_the_word_found_last(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = plans(monkeypatch)
    made = stereo.erase(tiny, concept, images, seed=3, **SMALL)
    latest = diffusion.encode(tiny, ["church", "<ste-00>"], made.found)
    for (_, shown, mixes), text in zip(calls[:2], latest, strict=True):
        assert all(torch.equal(row, text) for rows in shown for row in rows)
        assert all(torch.equal(mix[0][0], diffusion.encode(tiny, [""])) for mix in mixes)


def test_all_names_take_turns_in_ste_and_stand_in_every_target(
    tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = plans(monkeypatch)
    wide = replace(concept, words=("church", "castle", "house"))
    stereo.erase(tiny, wide, images, seed=3, **SMALL, names="all")
    names = diffusion.encode(tiny, list(wide.words))
    assert torch.equal(torch.cat(calls[0][1]), names[[0, 1, 2, 0]])
    assert all(torch.equal(torch.cat([text for text, w in mix if w < 0])[:3], names) for mix in calls[-1][2])
    assert all(len(mix) == 1 + 1 + 3 + 2 for mix in calls[-1][2])


def test_stratified_shows_each_equally_often() -> None:
    draws = torch.Generator().manual_seed(0)
    for of, count in ((3, 10), (7, 7), (50, 20), (1, 5)):
        drawn = stereo.stratified(of, count, draws)
        times = torch.bincount(drawn, minlength=of)
        assert len(drawn) == count and times.max() - times.min() <= 1
        assert torch.equal(torch.bincount(drawn[: count - count % of], minlength=of), torch.full((of,), count // of))
    assert not torch.equal(stereo.stratified(9, 9, draws), torch.arange(9))


# The stages.


def test_each_round_is_taught_by_the_model_on_its_entry(
    tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch, state: Callable
) -> None:
    """The second round's teacher has forgotten the first text; REO's is the original, bit for bit."""
    opened, applied = [], []
    dense, apply = edits.dense, edits.apply
    monkeypatch.setattr(edits, "dense", lambda model, where, **how: (opened.append(state(model)), dense(model, where, **how))[1])
    monkeypatch.setattr(edits, "apply", lambda model, erasure: (applied.append(erasure), apply(model, erasure))[1])
    before = state(tiny)
    stereo.erase(tiny, concept, images, seed=3, **SMALL)
    whole, first, second, reo = opened
    assert all(torch.equal(before[name], entry[name]) for entry in (whole, first, reo) for name in before)
    assert len(applied) == 2 and all(torch.equal(second[name], value) for name, value in applied[0].tensors.items())
    assert any(not torch.equal(before[name], second[name]) for name in before)


def test_weights_are_frozen_and_erased_during_an_attack(
    tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch, state: Callable
) -> None:
    seen, before = [], state(tiny)
    attack = stereo.attack

    def watched(model: Model, *given: Any, **settings: Any) -> Any:
        seen.append((state(model), any(p.requires_grad or p.grad is not None for p in model.unet.parameters()), given[0].shape[1]))
        return attack(model, *given, **settings)

    monkeypatch.setattr(stereo, "attack", watched)
    stereo.erase(tiny, concept, images, seed=3, **SMALL)
    (one, trained_one, share), (two, trained_two, _) = seen
    assert not trained_one and not trained_two and share == 3  # six pictures in two parts
    names = edits.parameters(tiny, stereo.WHERE["noxattn"])
    assert all(not torch.equal(a[name], b[name]) for a, b in ((before, one), (one, two)) for name in names if name.endswith("weight"))
    assert all(torch.equal(before[name], two[name]) for name in before.keys() - names.keys())


def test_reo_is_a_function_of_the_words(made: edits.Erasure, tiny: Model, concept: Any, images: Any) -> None:
    """STE leaves nothing behind but its words: REO on a fresh model with them gives the same weights."""
    common = stereo.Common(batch=SMALL["batch"], sampler_steps=SMALL["sampler_steps"])
    again = stereo.reo(tiny, concept, made.found, seed=3, steps=SMALL["steps"], lr=SMALL["lr"], common=common)
    assert same(made, again)
    assert again.log == made.log["reo"] and set(made.log) == {"search", "reo"}
    backwards = dict(reversed(list(made.found.items())))
    assert same(made, stereo.reo(tiny, concept, backwards, seed=3, steps=SMALL["steps"], lr=SMALL["lr"], common=common))


def test_words_survive(made: edits.Erasure, tiny: Model, concept: Any, images: Any, tmp_path: Path) -> None:
    words, log, _ = stereo.search(
        tiny, concept, images, seed=3, rounds=2, steps=2, lr=1e-3, invert_steps=2, invert_lr=1e-2, invert_batch=2,
        common=stereo.Common(batch=2, sampler_steps=4),
    )  # fmt: skip
    start = tokens.vector(tiny, "object")
    assert list(words) == ["ste-00", "ste-01"] and not torch.equal(*words.values())
    assert all(value.shape == (1, 32) and not torch.equal(value, start) for value in words.values())
    assert all(torch.equal(value, made.found[name]) for name, value in words.items())
    assert [{stage: len(rows) for stage, rows in one.items()} for one in log] == [{"erase": 2, "attack": 2}] * 2
    made.save(tmp_path / "e.json", {})
    kept = load_file(tmp_path / "e.found.safetensors")
    assert kept.keys() == words.keys() and all(torch.equal(kept[name], words[name]) for name in words)
    assert torch.equal(diffusion.encode(tiny, ["a <ste-01>"], kept), diffusion.encode(tiny, ["a <ste-01>"], words))


def test_a_round_draws_what_the_one_before_drew(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries: list[Tensor] = []
    forget = stereo.forget
    monkeypatch.setattr(stereo, "forget", lambda *a, **k: (entries.append(k["draws"].get_state()), forget(*a, **k))[1])
    for reset in (True, False):
        entries.clear()
        stereo.search(tiny, concept, images, seed=3, reset_seeds=reset, common=SHORT, **BRIEF)
        assert torch.equal(entries[0], entries[1]) == reset


@pytest.mark.parametrize("latent_alignment", ["exact", "legacy"])
def test_label_is_that_of_x_or_19_levels_above(
    latent_alignment: str, tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the official 50 steps: N steps lead to level 981 - 20 N; the code says 1000 - 20 N."""
    stops: list[int] = []
    labels: list[int] = []
    denoise, predict = stereo.denoise, stereo.predict

    def stopped(model: Model, x: Tensor, mix: Any, steps: int, until: int) -> Any:
        stops.append(until)
        return denoise(model, x, mix, steps, until)

    monkeypatch.setattr(stereo, "denoise", stopped)
    monkeypatch.setattr(stereo, "predict", lambda model, x, t, mix: (labels.append(t), predict(model, x, t, mix))[1])
    common = stereo.Common(latent_alignment=latent_alignment)
    stereo.reo(tiny, concept, {}, seed=1, steps=4, common=common)
    first = 981 if latent_alignment == "exact" else 1000
    assert labels == [first - 20 * n for n in stops for _ in ("teacher", "student")]
    assert len(set(stops)) > 1 and all(1 <= n <= 48 for n in stops)


def test_layers_are_linear_and_convolution_outside_or_inside_cross_attention(tiny: Model, mini: Model) -> None:
    for model in (tiny, mini):
        layers = {n: m for n, m in model.unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        for kind, part, inside in (("noxattn", "attn2", False), ("xattn", "attn2", True), ("selfattn", "attn1", True), ("full", "", True)):
            wanted = {f"unet.{n}.{p}" for n, m in layers.items() if (part in n) == inside for p, _ in m.named_parameters()}
            assert set(edits.parameters(model, stereo.WHERE[kind])) == wanted


# The contract.


def test_same_seed_same_tensors_another_another(made: edits.Erasure, tiny: Model, concept: Any, images: Any, state: Callable) -> None:
    before = state(tiny)
    torch.manual_seed(77)  # must not matter
    assert same(made, stereo.erase(tiny, concept, images, seed=3, **SMALL))
    assert not same(made, stereo.erase(tiny, concept, images, seed=4, **SMALL))
    assert all(torch.equal(value, before[name]) for name, value in state(tiny).items())
    assert not any(p.requires_grad or p.grad is not None for p in tiny.unet.parameters())


COMMONS: list[dict[str, Any]] = [
    {"latent_alignment": "exact"}, {"guidance": 7.0}, {"layers": "xattn"}, {"batch": 2}, {"sampler_steps": 4},
]  # fmt: skip
SEARCHES: list[dict[str, Any]] = [
    {"rounds": 1}, {"eta": 1.0}, {"steps": 2}, {"lr": 2e-3}, {"invert_steps": 2}, {"invert_lr": 2e-2}, {"invert_batch": 2}, {"vectors": 2},
    {"reset_seeds": False},
]  # fmt: skip
REOS: list[dict[str, Any]] = [
    {"adversarial": 1},
    {"w_pos": 0.5},
    {"w_neg": 1.0},
    {"away": "shown"},
    {"anchors": 2},
    {"steps": 2},
    {"lr": 2e-3},
]


def test_settings_change_what_they_should(made: edits.Erasure, tiny: Model, concept: Any, images: Any) -> None:
    words = stereo.search(tiny, concept, images, seed=3, common=SHORT, **BRIEF)[0]
    once = stereo.reo(tiny, concept, words, seed=3, steps=1, lr=1e-3, common=SHORT)
    for change in SEARCHES + [{"common": SHORT._replace(**change)} for change in COMMONS]:
        other = stereo.search(tiny, concept, images, **({"seed": 3, "common": SHORT} | BRIEF | change))[0]
        assert other.keys() != words.keys() or any(not torch.equal(other[name], words[name]) for name in words), change
    for change in REOS + [{"common": SHORT._replace(**change)} for change in COMMONS]:
        again = stereo.reo(tiny, concept, words, **({"seed": 3, "steps": 1, "lr": 1e-3, "common": SHORT} | change))
        assert not same(once, again), change


def test_erase_hands_every_setting_on(tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each under its own name; `steps` and `lr` of STE are called ste_steps and ste_lr in `erase`."""
    given: list[dict[str, Any]] = []
    made = edits.Erasure("weights")
    signed = [inspect.signature(function).parameters.items() for function in (stereo.search, stereo.reo)]
    monkeypatch.setattr(stereo, "search", lambda *_, **settings: (given.append(settings), ({}, [], made))[1])
    monkeypatch.setattr(stereo, "reo", lambda *_, **settings: (given.append(settings), made)[1])
    settings = {
        name: object() for name in inspect.signature(stereo.erase).parameters if name not in ("model", "concept", "images", "stage")
    }
    stereo.erase(tiny, concept, images, **settings)
    search, reo = given
    common = {name: settings.pop(name) for name in stereo.Common._fields}
    assert search.pop("common")._asdict() == reo.pop("common")._asdict() == common
    own = {"steps": settings.pop("ste_steps"), "lr": settings.pop("ste_lr")}
    assert search.keys() | reo.keys() == settings.keys()
    assert search == {name: own.get(name, settings[name]) for name in search} and reo == {name: settings[name] for name in reo}
    for parameters, taken in zip(signed, given, strict=True):
        assert {name for name, p in parameters if p.kind is p.KEYWORD_ONLY} == {*taken, "common"}


def test_defaults_of_the_stages_are_those_of_erase() -> None:
    whole, renamed = inspect.signature(stereo.erase).parameters, {"steps": "ste_steps", "lr": "ste_lr"}
    for name, setting in inspect.signature(stereo.search).parameters.items():
        if name != "common":
            assert setting.default == whole[renamed.get(name, name)].default
    for name, setting in inspect.signature(stereo.reo).parameters.items():
        assert name in ("words", "common") or setting.default == whole[name].default
    assert stereo.Common()._asdict() == {name: whole[name].default for name in stereo.Common._fields}


def test_saved_loaded_and_applied(made: edits.Erasure, tiny: Model, tmp_path: Path) -> None:
    x, text = torch.randn(1, 4, 16, 16), torch.randn(1, 24, 32)
    before = said(tiny.unet, x, 500, text)
    made.save(tmp_path / "e.json", {"seed": 3})
    erased = edits.apply(tiny, edits.load(tmp_path / "e.json"))
    assert made.kind == "weights" and not torch.allclose(before, said(erased.unet, x, 500, text))
    assert all(torch.equal(erased.unet.get_parameter(name.removeprefix("unet.")), value) for name, value in made.tensors.items())


def test_a_killed_run_goes_on_to_the_same_bytes(made: edits.Erasure, concept: Any, images: Any, tmp_path: Path) -> None:
    """Five trainings: erase, attack, erase, attack, REO. It was killed in the third."""
    with resume.resumable(tmp_path):
        stereo.erase(random_model(), concept, images, seed=3, **SMALL)
    kept = sorted(tmp_path.glob("descent-*.pt"))
    assert len(kept) == 5
    for file in kept[2:]:
        file.unlink()
    with resume.resumable(tmp_path):
        again = stereo.erase(random_model(), concept, images, seed=3, **SMALL)
    assert same(made, again) and again.log == made.log


@pytest.mark.parametrize("name", ["templates", "pool"])
def test_a_missing_list_is_named_before_any_work(
    name: str, tiny: Model, concept: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stereo, "both_ways", lambda *_: pytest.fail("worked"))
    poor = replace(concept, texts={key: value for key, value in concept.texts.items() if key != name})
    with pytest.raises(ValueError, match=f"church.*{name}.*gen_prompts"):
        stereo.erase(tiny, poor, images, seed=0, **SMALL)


def test_too_few_pictures_are_named_before_any_work(tiny: Model, concept: Any, images: Any) -> None:
    with pytest.raises(ValueError, match=r"6 of role 'pool' for 7 rounds.*pool\.images"):
        stereo.erase(tiny, concept, images, seed=0, **(SMALL | {"rounds": 7}))


def test_no_round_no_picture_needed(tiny: Model, concept: Any, images: Any) -> None:
    made = stereo.erase(tiny, concept, images.only("none such"), seed=0, **(SMALL | {"rounds": 0}))
    assert made.found == {} and len(made.log["reo"]) == 3


@pytest.mark.parametrize("concept", ["nudity", "church"])
def test_presets_of_code_and_paper(concept: str) -> None:
    code = {"rounds": 2, "adversarial": 2} if concept == "nudity" else {}
    assert preset("stereo", "code", concept) == code and preset("stereo", "official", concept) == {"start_from": "piece", **code}
    differs = preset("stereo", "paper", concept)
    assert (differs["w_neg"], differs["latent_alignment"], differs["reset_seeds"]) == (1.0, "exact", False) and differs["anchors"] > 1
