"""AdvUnlearn against its equations in plain loops, and the properties that its specification lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import preset, random_model
from plain.advunlearn import erase as plain
from torch import Tensor
from torch.func import functional_call

from palimpsest import data, diffusion, edits, resume
from palimpsest.methods import advunlearn, esd
from palimpsest.types import Model

QUICK: dict[str, Any] = {
    "steps": 2, "warmup": 1, "attack_steps": 3, "attack_lr": 0.02, "lr": 1e-3, "retain_batch": 2, "sampler_steps": 4,
}  # fmt: skip


@pytest.fixture
def exact() -> Iterator[Model]:
    """The tiny model in float64: Adam's first steps are signs, which rounding in float32 would turn where a gradient is nearly zero."""
    torch.set_default_dtype(torch.float64)
    try:
        yield random_model()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def plain_run(concept: data.Concept, images: Any) -> edits.Erasure:
    return advunlearn.erase(random_model(), concept, images, seed=0, **QUICK)


@pytest.mark.parametrize(
    "trained, changed",
    [
        ("text_encoder", {"latent_alignment": "exact"}),
        ("text_encoder", {"latent_alignment": "legacy", "attack_init": "latest", "steps": 3, "gamma": 0.7}),
        ("text_encoder", {"retain_form": "iter", "eta": 2.0}),
        ("text_encoder", {"attack_text": "words", "steps": 3}),
        ("xattn", {"latent_alignment": "legacy"}),
        ("xattn", {"attack_init": "latest", "retain_form": "iter", "guidance": 2.0}),
    ],
)
def test_training_is_the_plain_reference(exact: Model, concept: data.Concept, images: Any, trained: Any, changed: dict[str, Any]) -> None:
    named = replace(concept, words=("treehouse", "french horn"))  # of three tokens and of two
    settings = {
        **QUICK, "seed": 5, "eta": 1.0, "gamma": 0.3, "guidance": 3.0, "attack_init": "random", "retain_form": "reg",
        "latent_alignment": "exact", **changed,
    }  # fmt: skip
    made = advunlearn.erase(exact, named, images, train=trained, ahead=2, **settings)
    wanted = plain(exact, named, images, train=trained, **settings)
    assert made.tensors.keys() == wanted.keys()
    moved = max((wanted[name] - edits.parameters(exact, name)[name]).abs().max() for name in wanted)
    assert moved > 5e-4
    for name in wanted:
        torch.testing.assert_close(made.tensors[name], wanted[name], atol=1e-8, rtol=0)  # the scheduler's own levels are float32


def test_without_attack_and_retain_it_is_esd_on_the_text_encoder(exact: Model, concept: data.Concept, images: Any) -> None:
    made = advunlearn.erase(exact, concept, images, **{**QUICK, "seed": 0, "steps": 1, "attack_steps": 0, "retain_batch": 0})
    draws = torch.Generator().manual_seed(0)
    torch.randint(1, (1,), generator=draws)
    torch.randperm(0, generator=draws)
    until = int(torch.randint(4, (1,), generator=draws))
    torch.randint(len(exact.tokenizer), (1,), generator=draws)
    seed = int(torch.randint(2**63 - 1, (1,), generator=draws))
    text, null = diffusion.encode(exact, ["church"]), diffusion.encode(exact, [""])
    x = diffusion.noise(exact, [torch.Generator().manual_seed(seed)])
    x, t = diffusion.denoise(exact, x, diffusion.guided(text, null, 3.0), 4, until)
    goal = diffusion.predict(exact, x, t, esd.target(text, null, null, 1.0)).detach()
    weights = {name.removeprefix("text_encoder."): value.clone().requires_grad_() for name, value in trained(exact).items()}
    ids = torch.tensor([[0, exact.tokenizer("church", add_special_tokens=False).input_ids[0]] + [1] * 22])
    shown = functional_call(exact.text_encoder, weights, (ids,)).last_hidden_state
    descent = torch.optim.Adam(weights.values(), lr=1e-3)
    (exact.unet(x, t, shown).sample - goal).pow(2).mean().backward()
    descent.step()
    for name, value in weights.items():
        torch.testing.assert_close(made.tensors["text_encoder." + name], value.detach(), atol=1e-9, rtol=0)


def trained(model: Model) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in edits.parameters(model, advunlearn.WHERE["text_encoder"]).items()}


def test_the_attack_lowers_its_loss(tiny: Model) -> None:
    text = diffusion.encode(tiny, ["church"])
    x, t = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0)), 501
    with torch.no_grad():
        goal = diffusion.predict(tiny, x, t, [(text, 1.0)])

    def loss(step: int, word: Tensor) -> Tensor:
        shown = diffusion.encode(tiny, ["<adv> church"], {"adv": word})
        return (diffusion.predict(tiny, x, t, [(shown, 1.0)]) - goal).pow(2).mean()

    start = tiny.text_encoder.get_input_embeddings().weight[[7]]
    for method, gradients, last in (("pgd", "accumulated", "dropped"), ("fast_at", "fresh", "used")):
        word = advunlearn.attack(loss, start, steps=30, lr=1e-3, method=method, gradients=gradients, last_update=last)
        assert loss(0, word) < 0.5 * loss(0, start), (method, gradients)


def test_the_attack_as_the_official_code_runs_it() -> None:
    """Gradients 4, -1, -1: accumulated they are 4, 3, 2; and the word handed back has seen all updates but the last."""
    slopes = [4.0, -1.0, -1.0]

    def word(steps: int, **how: str) -> float:
        how = {"method": "pgd", "gradients": "accumulated", "last_update": "used", **how}
        return advunlearn.attack(lambda n, w: slopes[n] * w.sum(), torch.zeros(1, 1), steps=steps, lr=0.1, **how).item()

    def adam(*gradients: float) -> float:
        p = torch.zeros(1, requires_grad=True)
        descent = torch.optim.Adam([p], lr=0.1)
        for g in gradients:
            p.grad = torch.full((1,), g)
            descent.step()
        return p.item()

    assert word(3) == pytest.approx(adam(4.0, 3.0, 2.0))
    assert word(3, gradients="fresh") == pytest.approx(adam(4.0, -1.0, -1.0))
    assert word(3, method="fast_at") == pytest.approx(adam(1.0, 0.0, -1.0))  # sign(4), sign(1 - 1), sign(0 - 1)
    assert word(3, method="fast_at", gradients="fresh") == pytest.approx(adam(1.0, -1.0, -1.0))
    assert word(3, last_update="dropped") == pytest.approx(adam(4.0, 3.0))
    assert word(1, last_update="dropped") == 0.0


def test_the_soft_word_stands_right_behind_the_start_token(tiny: Model) -> None:
    """As the same token written there: prefix_k; and the encoder stays causal, so that nothing before a place sees it."""
    (token,) = tiny.tokenizer("castle", add_special_tokens=False).input_ids
    word = tiny.text_encoder.get_input_embeddings().weight[[token]]
    soft = diffusion.encode(tiny, ["<adv> french horn"], {"adv": word})
    torch.testing.assert_close(soft, diffusion.encode(tiny, ["castle french horn"]))
    assert torch.equal(soft[:, 0], diffusion.encode(tiny, ["<adv> french horn"], {"adv": word + 1})[:, 0])


@pytest.mark.parametrize(
    "soft, text, left", [(1, "treehouse", [0, 2]), (2, "a treehouse by a castle", [0, 1, 2, 3, 4, 7]), (1, "church", [0])]
)
def test_attack_text_words_takes_words_for_tokens(tiny: Model, soft: int, text: str, left: list[int]) -> None:
    """The official code splits start, words, k and rest off the tokens, and puts start, soft word, words and rest together."""
    ids = tiny.tokenizer(text, add_special_tokens=False).input_ids
    rows = tiny.text_encoder.get_input_embeddings().weight[tiny.tokenizer("castle french horn", add_special_tokens=False).input_ids[:soft]]
    seen, words = advunlearn.behind(tiny, text, rows, "words")
    whole = [0, *tiny.tokenizer("castle french horn", add_special_tokens=False).input_ids[:soft], *[ids[n] for n in left]]
    wanted = tiny.text_encoder(torch.tensor([whole + [1] * (24 - len(whole))])).last_hidden_state
    torch.testing.assert_close(diffusion.encode(tiny, [seen], words), wanted)


def test_legacy_label_is_39_to_58_levels_noisier_than_the_latent() -> None:
    levels = torch.arange(50).flip(0) * 20 + 1
    until, t = advunlearn.stops(levels, 40000, "legacy", torch.Generator().manual_seed(0))
    own = torch.cat([levels, torch.tensor([-19])])[until]
    ahead, clean = t - own, until == 50
    assert until.min() == 2 and (ahead[~clean].min(), ahead[~clean].max()) == (39, 58)
    assert set(t[clean].tolist()) == set(range(40)) and t.max() == 999  # the two cleanest parts both run to the end
    until, t = advunlearn.stops(levels.repeat(8), 40000, "legacy", torch.Generator().manual_seed(0))
    assert set(until[t == 507].tolist()) == {
        401 - 203
    }  # the 203rd of 400 parts begins at round(203 / 400 * 1000), which is 507 and not 508
    until, t = advunlearn.stops(levels, 40000, "exact", torch.Generator().manual_seed(0))
    assert torch.equal(t, levels[until]) and set(until.tolist()) == set(range(50))


def test_texts_to_keep_come_without_replacement() -> None:
    picks = advunlearn.batches(7, 3, torch.Generator().manual_seed(0))
    rounds = [torch.cat([next(picks), next(picks)]).tolist() for _ in range(20)]
    assert all(len(set(numbers)) == 6 for numbers in rounds)
    assert {n for numbers in rounds for n in numbers} == set(range(7)) and len({tuple(r) for r in rounds}) > 10


@pytest.mark.parametrize("train", list(advunlearn.WHERE))
def test_only_what_is_named_is_trained(tiny: Model, concept: data.Concept, images: Any, state: Callable, train: Any) -> None:
    before = state(tiny)
    made = advunlearn.erase(tiny, concept, images, seed=0, train=train, **QUICK)
    after = state(tiny)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for m in (tiny.unet, tiny.text_encoder) for p in m.parameters())
    names = set(made.tensors)
    if train == "text_encoder":
        assert names == {n for n in before if n.startswith("text_encoder.") and "embeddings" not in n}
        assert any("final_layer_norm" in n for n in names)
    else:
        unet = {n for n in before if n.startswith("unet.")}
        crossed = {n for n in unet if "attn2" in n}
        rest = {n for n in unet if not any(part in n for part in ("attn2", "time_embedding", "conv_norm_out", "conv_out"))}
        assert names == {"xattn": crossed, "noxattn": rest, "full": unet}[train]
    assert any(not torch.equal(before[name], made.tensors[name]) for name in names)


def test_same_seed_same_tensors_and_the_disk_keeps_them(concept: data.Concept, images: Any, state: Callable, tmp_path: Any) -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(100 + len(made))
        made.append(advunlearn.erase(random_model(), concept, images, seed=seed, **QUICK))
    a, b, c = (each.tensors for each in made)
    assert all(torch.equal(a[n], b[n]) for n in a) and any(not torch.equal(a[n], c[n]) for n in a)
    made[0].save(tmp_path / "e.json", {})
    model = random_model()
    before = diffusion.encode(model, ["church"])
    edits.apply(model, edits.load(tmp_path / "e.json"))
    after = state(model)
    assert all(torch.equal(after[n], a[n]) for n in a)
    assert not torch.allclose(before, diffusion.encode(model, ["church"]), atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"attack_steps": 0}, {"warmup": 2}, {"attack_init": "zero"}, {"attack_words": 2}, {"attack_method": "fast_at"}, {"batch": 2},
        {"attack_gradients": "fresh"}, {"attack_last_update": "used"}, {"gamma": 0.0}, {"retain_batch": 0}, {"retain_form": "iter"},
        {"latent_alignment": "legacy"}, {"texts": "train"}, {"guidance": 1.0}, {"eta": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_counts(tiny: Model, plain_run: edits.Erasure, concept: data.Concept, images: Any, changed: dict[str, Any]) -> None:
    other = advunlearn.erase(tiny, concept, images, seed=0, **(QUICK | changed))
    assert any(not torch.allclose(plain_run.tensors[n], other.tensors[n], atol=1e-6, rtol=0) for n in other.tensors)


@pytest.mark.parametrize("train", ["text_encoder", "xattn"])
def test_a_killed_run_resumes_to_the_same_bytes(concept: data.Concept, images: Any, tmp_path: Any, train: Any, monkeypatch: Any) -> None:
    """Also where the attack goes on from the word of the step before, which the checkpoint must hold."""
    settings = {**QUICK, "steps": 3, "warmup": 0, "attack_init": "latest", "train": train, "seed": 0}
    whole = advunlearn.erase(random_model(), concept, images, **settings)
    attack, calls = advunlearn.attack, []

    def killed(*given: Any, **named: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attack(*given, **named)

    descend = advunlearn.descend
    monkeypatch.setattr(advunlearn, "descend", lambda *given, **named: descend(*given, **named, pause=0))
    monkeypatch.setattr(advunlearn, "attack", killed)
    with pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path):
        advunlearn.erase(random_model(), concept, images, **settings)
    with resume.resumable(tmp_path):
        again = advunlearn.erase(random_model(), concept, images, **settings)
    assert len(calls) == 4  # two before it was killed, the third once more
    assert all(torch.equal(whole.tensors[n], again.tensors[n]) for n in whole.tensors) and list(whole.log) == list(again.log)


def test_what_is_missing_is_said_before_any_work(concept: data.Concept, images: Any) -> None:
    broken: Any = None  # no model is touched
    with pytest.raises(ValueError, match="retain_batch is 5, but church has 1 texts under `retain`"):
        advunlearn.erase(broken, replace(concept, texts={"retain": ["a dog"]}), images, seed=0)
    with pytest.raises(ValueError, match="texts is 'train', but church has none"):
        advunlearn.erase(broken, replace(concept, texts={"retain": ["a dog"] * 9}), images, seed=0, texts="train")
    with pytest.raises(ValueError, match=r"advunlearn: sampler_steps 1 leaves latent_alignment legacy no step .* make it 2 or more"):
        advunlearn.erase(broken, concept, images, seed=0, latent_alignment="legacy", sampler_steps=1)


@pytest.mark.parametrize("concept, gamma", [("nudity", 0.3), ("violence", 0.3), ("church", 0.5), ("van_gogh", 0.5)])
def test_the_presets_weigh_what_is_kept_as_the_authors_do(concept: str, gamma: float) -> None:
    official = {"latent_alignment": "legacy", "attack_text": "words"}  # whatever ours does differently
    assert preset("advunlearn", "official", concept) == {**official, "gamma": gamma}
    assert preset("advunlearn", "darkminer", concept) == {"texts": "train", "gamma": gamma}
