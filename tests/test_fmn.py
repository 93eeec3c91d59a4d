"""Forget-Me-Not: both stages against plain references, its probe, its traps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, preset, random_model
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from plain import fmn as reference
from torch import Tensor

from palimpsest import diffusion, edits, tokens
from palimpsest.methods import fmn
from palimpsest.resume import resumable
from palimpsest.types import Model

SMALL: dict[str, Any] = {"ti_steps": 2, "steps": 2, "lr": 1e-3}
NOISY = (4, 16, 16)


def attentions(unet: Any) -> dict[str, Any]:
    return {name: module for name, module in unet.named_modules() if name.endswith("attn2")}


def by_hand(model: Model, x: Tensor, t: Tensor, context: Tensor) -> list[Tensor]:
    """softmax(q k^T / sqrt(d)) of every cross-attention layer, "b h p n", from the inputs that its layer saw: no processor has a part."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Callable:
        return lambda _, args, kwargs: seen.update({name: (args[0], kwargs["encoder_hidden_states"])})

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in attentions(model.unet).items()]
    model.unet(x, t, context)
    for handle in handles:
        handle.remove()
    maps = []
    for name, (hidden, text) in seen.items():  # in the order of the forward pass, which is not that of the names
        layer = attentions(model.unet)[name]
        q, k = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (layer.to_q(hidden), layer.to_k(text)))
        maps.append((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1))
    return maps


def looked(maps: list[Tensor], columns: Tensor) -> Tensor:
    """sum of A^2, one layer, row, head and marked token at a time."""
    total = torch.zeros(())
    for a in maps:
        for row in range(a.shape[0]):
            for head in range(a.shape[1]):
                for n in columns[row].nonzero().flatten().tolist():
                    total = total + a[row, head, :, n].square().sum()
    return total


def x_t(model: Model, moments: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior sample, then noise at a level from 0 to 999; the draws in the method's order."""
    rows = len(moments)
    mean, log_variance = moments.chunk(2, dim=1)
    x = (mean + (0.5 * log_variance).exp() * torch.randn(rows, *NOISY, generator=draws)) * model.vae.config.scaling_factor
    t = torch.randint(1000, (rows,), generator=draws)
    eps = torch.randn(rows, *NOISY, generator=draws)
    a = model.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * eps, t, eps


def moments(model: Model, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return model.vae.encode(pixels).latent_dist.parameters


@pytest.mark.parametrize("use_pooler, ends", [("none", []), ("first_eos", [5]), ("all", list(range(5, 24)))])
@pytest.mark.parametrize("loss", ["norm", "squares"])
@pytest.mark.parametrize("batch", [1, 3])
def test_resteering_is_the_equation(images: Any, concept: Any, use_pooler: Any, ends: list[int], loss: Any, batch: int) -> None:
    model, student = random_model(), random_model()
    made = fmn.erase(
        model, concept, images, seed=3, use_ti=False, use_pooler=use_pooler, loss=loss, batch=batch, steps=3, lr=1e-3, trained="attention"
    )
    draws = torch.Generator().manual_seed(3)
    pool = moments(student, images.only("pool").pixels())
    ids = student.tokenizer("a photo of church", padding="max_length", max_length=24).input_ids
    assert [n for n, token in enumerate(ids) if token == student.tokenizer.convert_tokens_to_ids("church</w>")] == [4]
    columns = torch.tensor([[n in [4, *ends] for n in range(24)]] * batch)
    context = student.text_encoder(torch.tensor([ids])).last_hidden_state.detach().expand(batch, -1, -1)
    trained = {name: p.requires_grad_() for name, p in student.unet.named_parameters() if "attn2" in name}
    adam = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.01)
    for row in made.log["attention"]:
        picked = torch.randint(6, (batch,), generator=draws)
        torch.randint(1, (batch,), generator=draws)  # which of the concept's words: it has one
        noisy, t, _ = x_t(student, pool[picked], draws)
        total = looked(by_hand(student, noisy, t, context), columns)
        wanted = total.sqrt() if loss == "norm" else total
        adam.zero_grad()
        wanted.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        adam.step()
        assert row["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert set(made.tensors) == {f"unet.{name}" for name in trained}
    for name, p in trained.items():
        torch.testing.assert_close(made.tensors[f"unet.{name}"], p.detach(), atol=1e-5, rtol=0)  # a step is 1e-3
    assert max((made.tensors[f"unet.{n}"] - p).abs().max() for n, p in model.unet.named_parameters() if n in trained) > 1e-3


@pytest.mark.parametrize("norm", [0.4, None])
@pytest.mark.parametrize("batch", [1, 2])
def test_inversion_is_training_the_table_and_restoring_the_rest(images: Any, concept: Any, norm: float | None, batch: int) -> None:
    model = random_model()
    pixels, old = images.only("pool").pixels(), model.text_encoder.get_input_embeddings().weight
    seen = torch.stack([moments(model, pixels), moments(model, pixels.flip(-1))])
    draws, church = torch.Generator().manual_seed(5), old[model.tokenizer("church", add_special_tokens=False).input_ids]
    first = fmn.start(model, "church", 4, 1.0, draws)
    given: dict[str, Any] = {"steps": 4, "lr": 2e-3, "weight_decay": 0.1, "batch": batch, "norm": norm}
    words, log = fmn.learn(model, seen, "a photo of <concept>", {"concept": first}, draws, **given)
    draws.manual_seed(5)
    assert torch.equal(first, torch.cat([church, torch.randn(3, 32, generator=draws)]))
    other, losses = reference.learn(model, pixels, first, "a photo of {}", draws, **given)
    assert [row["loss"] for row in log] == pytest.approx(losses, rel=1e-5)
    table = other.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[:-4], old)
    torch.testing.assert_close(words["concept"], table[-4:], atol=1e-5, rtol=1e-5)
    assert (words["concept"] - first).abs().max() > 1e-3


OTHER: list[dict[str, Any]] = [
    {},
    {"trained": "attention", "clip": 0.5},
    {"template": "a {} image", "ti_template": "an image of {}", "vectors": 2},
    {"no_real_image": True, "use_ti": False},
]


@pytest.mark.parametrize("settings", OTHER)
def test_official_preset_equals_the_plain_program(settings: dict, images: Any, concept: Any) -> None:
    """Clips nothing where the whole UNet is trained: the official code hands clip_grad_norm_ an iterator that the optimiser has used up."""
    official = yaml.safe_load((TOP / "data/presets/fmn.yaml").read_text())["official"]["settings"]
    given = {**official, "ti_steps": 3, "steps": 4, "lr": 1e-3, **settings}
    start = edits.parameters(random_model(), fmn.WHERE[given.get("trained", "full")])
    wanted = reference.erase(random_model(), concept, images, seed=3, **given)

    def apart(made: Any) -> float:
        """Distance from the plain program, as a share of how far that went."""
        assert made.tensors.keys() == wanted.keys() == start.keys()
        far = [
            torch.cat([(one[n] - other[n]).flatten() for n in wanted]).norm() for one, other in ((made.tensors, wanted), (start, wanted))
        ]
        return (far[0] / far[1]).item()

    made = fmn.erase(random_model(), concept, images, seed=3, **given)
    assert apart(made) < 5e-4
    limit = given["clip"] or 1.0
    assert max(row["gradient_norm"] for row in made.log["attention"]) > limit, "or clipping would show nowhere"
    other = fmn.erase(random_model(), concept, images, seed=3, **{**given, "clip": None if given["clip"] else limit})
    assert apart(other) > 1e-3


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_probe_computes_the_plain_attention_and_leaves_no_trace(tiny: Model, processor: Any) -> None:
    tiny.unet.set_attn_processor(processor())
    own = dict(tiny.unet.attn_processors)
    x, t, context = torch.randn(3, *NOISY), torch.tensor([5, 500, 900]), torch.randn(3, 24, 32)
    wanted = by_hand(tiny, x, t, context)
    before = tiny.unet(x, t, context).sample
    with fmn.probed(tiny.unet) as maps:
        inside = tiny.unet(x, t, context).sample
    for made, plain in zip(maps, wanted, strict=True):
        torch.testing.assert_close(made.unflatten(0, (3, -1)), plain, atol=1e-6, rtol=1e-5)
    if processor is AttnProcessor:
        assert torch.equal(inside, before)
    torch.testing.assert_close(inside, before, atol=1e-5, rtol=1e-5)
    assert tiny.unet.attn_processors == own and all(a is b for a, b in zip(tiny.unet.attn_processors.values(), own.values(), strict=True))
    assert torch.equal(tiny.unet(x, t, context).sample, before) and len(maps) == len(attentions(tiny.unet))


def test_probe_gives_the_processors_back_after_an_error(tiny: Model) -> None:
    own = dict(tiny.unet.attn_processors)
    with pytest.raises(KeyError), fmn.probed(tiny.unet) as maps:
        tiny.unet(torch.randn(1, *NOISY), 5, torch.randn(1, 24, 32))
        raise KeyError
    assert tiny.unet.attn_processors == own and len(maps) == 4
    assert not any("get_attention_scores" in vars(layer) for layer in attentions(tiny.unet).values())


def test_rows_with_other_words_are_their_own(tiny: Model) -> None:
    """A batch is the sum of its rows, also where these have other columns, and more of them (the official code mixes rows and heads)."""
    texts = ["a photo of church", "a photo of french horn"]
    columns = torch.stack([fmn.columns(tiny, text, text.removeprefix("a photo of "), {}, "none") for text in texts])
    assert columns.sum(1).tolist() == [1, 2]
    x, t, context = torch.randn(2, *NOISY), torch.tensor([100, 700]), diffusion.encode(tiny, texts)
    alone = []
    for n in (slice(0, 1), slice(1, 2)):
        with fmn.probed(tiny.unet) as maps:
            tiny.unet(x[n], t[n], context[n])
        alone.append(fmn.energy(maps, columns[n]))
    with fmn.probed(tiny.unet) as maps:
        tiny.unet(x, t, context)
    torch.testing.assert_close(fmn.energy(maps, columns), sum(alone))
    sharp = [(3 * torch.randn(4, pixels, 24)).softmax(-1) for pixels in (9, 4)]  # two rows of two heads
    torch.testing.assert_close(fmn.energy(sharp, columns), looked([a.unflatten(0, (2, 2)) for a in sharp], columns))
    mixed = sum((a.square() * columns.repeat(2, 1)[:, None]).sum() for a in sharp)
    assert abs(mixed - fmn.energy(sharp, columns)) > 0.01 * mixed


def test_columns_are_the_words_and_the_end_tokens_that_are_asked_for(tiny: Model) -> None:
    def places(text: str, name: str, use_pooler: str, learned: tokens.Words | None = None) -> list[int]:
        return fmn.columns(tiny, text, name, learned or {}, use_pooler).nonzero().flatten().tolist()

    assert places("a photo of church", "church", "none") == [4]
    assert places("a photo of french horn", "french horn", "first_eos") == [4, 5, 6]
    assert places("a church of church", "church", "none") == [2, 4]  # every time
    assert places("a photo of church", "church", "all") == list(range(4, 24))  # SD 1: pad tokens are end tokens
    word = {"concept": torch.randn(3, 32)}
    assert places("a photo of <concept>", "<concept>", "none", word) == [4, 5, 6]
    assert places("a photo of <concept>", "<concept>", "first_eos", word) == [4, 5, 6, 7]
    tiny.tokenizer.pad_token = "!</w>" if "!</w>" in tiny.tokenizer.get_vocab() else "a</w>"
    assert places("a photo of church", "church", "all") == [4, 5]  # SD 2: one end token


@pytest.mark.parametrize("use_ti", [True, False])
@pytest.mark.parametrize("trained", ["full", "attention"])
def test_model_is_as_it_was_and_the_seed_decides(concept: Any, images: Any, state: Callable, use_ti: bool, trained: Any) -> None:
    model = random_model()
    before, own = state(model), dict(model.unet.attn_processors)
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(made))  # the global generator must not matter
        made.append(fmn.erase(model, concept, images, seed=seed, use_ti=use_ti, trained=trained, **SMALL))
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert not any(p.requires_grad or p.grad is not None for part in (model.unet, model.text_encoder) for p in part.parameters())
    assert model.unet.attn_processors == own
    assert all(torch.equal(made[0].tensors[name], made[1].tensors[name]) for name in made[0].tensors) and made[0].log == made[1].log
    assert any(not torch.equal(made[0].tensors[name], made[2].tensors[name]) for name in made[0].tensors)
    assert [tuple(value.shape) for value in made[0].found.values()] == ([(4, 32)] if use_ti else [])
    assert len(made[0].log["word"]) == (2 if use_ti else 0) and len(made[0].log["attention"]) == 2
    assert all(("attn2" in name) or trained == "full" for name in made[0].tensors)


def test_only_what_has_a_part_in_the_maps_changes(tiny: Model, concept: Any, images: Any) -> None:
    made = fmn.erase(tiny, concept, images, seed=3, weight_decay=0.1, **SMALL)
    moved = {name for name, value in made.tensors.items() if not torch.equal(value, edits.parameters(tiny, "unet.*")[name])}
    last = "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2."
    assert {last + "to_q.weight", last + "to_k.weight", "unet.conv_in.weight", "unet.time_embedding.linear_1.weight"} <= moved
    still = {last + "to_v.weight", last + "to_out.0.weight", "unet.conv_out.weight", "unet.up_blocks.1.resnets.0.conv1.weight"}
    assert not still & moved and still <= set(made.tensors)  # not even by weight decay


def test_attention_to_the_word_falls_and_is_saved(tiny: Model, concept: Any, images: Any, tmp_path: Path) -> None:
    made = fmn.erase(tiny, concept, images, seed=3, use_ti=False, use_pooler="none", trained="attention", steps=20, lr=1e-2, batch=4)
    made.save(tmp_path / "e.json", {})
    x, t, context = torch.randn(8, *NOISY), torch.randint(1000, (8,)), diffusion.encode(tiny, ["a photo of church"])
    columns = fmn.columns(tiny, "a photo of church", "church", {}, "none").expand(8, -1)
    values = []
    for _ in range(2):
        with torch.no_grad(), fmn.probed(tiny.unet) as maps:
            diffusion.predict(tiny, x, t, [(context, 1.0)])
        values.append(fmn.energy(maps, columns).item())
        edits.apply(tiny, edits.load(tmp_path / "e.json"))
    assert values[1] < 0.5 * values[0]


def test_settings_change_what_they_should(tiny: Model, concept: Any, images: Any) -> None:
    def made(concept: Any = concept, **settings: Any) -> dict[str, Tensor]:
        quick: dict[str, Any] = {"ti_steps": 1, "steps": 1, "lr": 1e-3, "trained": "attention"}
        return dict(fmn.erase(tiny, concept, images, seed=3, **{**quick, **settings}).tensors)

    plain = made()
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    changes: list[dict[str, Any]] = [
        {"use_ti": False}, {"vectors": 2}, {"initialiser": "a tree"}, {"sigma": 0.1}, {"template": "a {} photo"}, {"ti_steps": 2},
        {"ti_lr": 1e-2}, {"ti_weight_decay": 5.0}, {"ti_batch": 2}, {"norm": None}, {"use_pooler": "none"}, {"use_pooler": "first_eos"},
        {"ti_template": "a {} photo"}, {"loss": "squares"}, {"steps": 2}, {"lr": 1e-4}, {"weight_decay": 1.0}, {"batch": 2}, {"clip": 1e-7},
        {"no_real_image": True},
    ]  # fmt: skip
    for change in changes:
        assert not torch.equal(plain[name], made(**change)[name]), change
    spoken = replace(concept, words=("church", "french horn"))
    assert torch.equal(made(spoken)[name], plain[name])  # a learned word stands for all
    assert not torch.equal(made(spoken, use_ti=False, batch=4)[name], made(use_ti=False, batch=4)[name])
    assert not torch.equal(made(replace(concept, kind="style"))[name], plain[name])  # another template


def test_a_killed_run_resumes_to_the_same_bytes(concept: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fmn.erase(random_model(), concept, images, seed=3, **SMALL)
    energy = fmn.energy

    def killed(*args: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(fmn, "energy", killed)
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path):
        fmn.erase(random_model(), concept, images, seed=3, **SMALL)
    monkeypatch.setattr(fmn, "energy", energy)
    monkeypatch.setattr(fmn, "noisy", counted := Counted(fmn.noisy))
    with resumable(tmp_path):
        again = fmn.erase(random_model(), concept, images, seed=3, **SMALL)
    assert counted.calls == 2  # the word was not learned again
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)


class Counted:
    def __init__(self, function: Callable) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)


@pytest.mark.parametrize(
    "settings, says",
    [({"vectors": 0}, "vectors is 0"), ({"template": "a photo"}, "template"), ({"template": "a photo", "use_ti": False}, "template"),
     ({"ti_template": "a photo"}, "ti_template"),
     ({"template": "a photo of {concept}"}, r"^fmn: template: unknown {concept} in 'a photo of {concept}'; allowed: {}$"),
     ({"template": "a photo of {"}, "^fmn: template: .* allowed: {}$"), ({"ti_template": "{} {}"}, "^fmn: ti_template: .* allowed: {}$"),
     ({"vectors": 30}, "does not fit"), ({"template": "a photo " * 20 + "{}", "use_ti": False}, "template")],
)  # fmt: skip
def test_what_cannot_be_is_said_before_any_work(tiny: Model, concept: Any, images: Any, settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        fmn.erase(tiny._replace(vae=None), concept, images, seed=0, **settings)
    assert "\n" not in str(error.value)


def test_no_pool_is_said(tiny: Model, concept: Any, images: Any) -> None:
    with pytest.raises(ValueError, match="'pool'"):
        fmn.erase(tiny._replace(vae=None), concept, images.only("anchor"), seed=0)


def test_styles_of_the_benchmark_train_cross_attention_alone() -> None:
    styled = preset("fmn", "unlearncanvas", "van_gogh")
    assert styled["trained"] == "attention" and styled["clip"] == 1.0
    assert "trained" not in preset("fmn", "unlearncanvas", "church") and preset("fmn", "official", "van_gogh") == {"clip": None}
