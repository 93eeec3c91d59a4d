"""Families of models: each draws as its stock pipeline does, and what the science builds on holds for all of them."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import MINI, TOP
from families import PIPELINES, WORDS, random_pipeline
from safetensors.torch import save_file
from torch import Tensor

from palimpsest import data, diffusion, edits, families, guidance, models, pairs, tokens
from palimpsest.attacks import cce
from palimpsest.methods import stereo
from palimpsest.types import Model
from palimpsest.workflow import ready
from palimpsest.workflow.complaints import ParamsError

ALL = tuple(PIPELINES)
OWN = ("sd14", "sdxl", "pixart", "sd3")  # one of each family
ASKED = {"pixart": {"use_resolution_binning": False, "clean_caption": False}}  # bins are for other shapes; cleaning needs packages
ROWS = [data.Prompt(text, 50 + n) for n, text in enumerate(["A photo of a church in the snow", "tree", "a dog; " * 60])]


def stock(pipe: Any, name: str, scheduler: Any, rows: list[data.Prompt], steps: int, scale: float) -> Tensor:
    """What diffusers' pipeline draws, "n 3 h w" in [-1, 1]."""
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    generators = [torch.Generator().manual_seed(row.seed) for row in rows]
    asked = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "pt", **ASKED.get(name, {})}
    return pipe([row.text for row in rows], generator=generators, **asked).images * 2 - 1


def drawn(model: Model, rows: list[data.Prompt] = ROWS, steps: int = 4, scale: float = 4.0) -> Tensor:
    return diffusion.drawn(model, data.Prompts(rows), steps=steps, guidance=scale, batch=len(rows))


def latents(model: Model, rows: int = 2) -> Tensor:
    return diffusion.noise(model, torch.Generator().manual_seed(7), rows)


@pytest.fixture(params=ALL, scope="module")
def every(request: pytest.FixtureRequest) -> Model:
    return models.adapted(random_pipeline(request.param))


@pytest.fixture(params=OWN, scope="module")
def family(request: pytest.FixtureRequest) -> Model:
    return models.adapted(random_pipeline(request.param))


SAMPLED = [*((name, None) for name in ALL), *((name, "ddim") for name in ("sdxl", "pixart"))]
SAMPLED += [("sd14", "pndm"), ("sd14", "dpm"), ("sd14", "lms"), ("sd20v", "pndm"), ("sd20v", "dpm"), ("sd20v", "euler")]


@pytest.mark.parametrize(("name", "sampler"), SAMPLED)
def test_draw_equals_the_stock_pipeline(name: str, sampler: str | None) -> None:
    pipe = random_pipeline(name)
    model = models.adapted(pipe, sampler)
    ours = drawn(model)
    torch.testing.assert_close(ours, stock(pipe, name, model.scheduler, ROWS, 4, 4.0), atol=2e-5, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 0.1  # the text matters


def test_pixart_at_1024_is_told_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 128 latents on the stock pipeline tells the network the size of the picture."""
    import families as tiny

    small = tiny.PixArtTransformer2DModel
    monkeypatch.setattr(tiny, "PixArtTransformer2DModel", lambda **asked: small(**{**asked, "sample_size": 128, "patch_size": 8}))
    pipe = random_pipeline("pixart")
    model = models.adapted(pipe)
    assert pipe.transformer.use_additional_conditions
    torch.testing.assert_close(drawn(model, ROWS[:1], 2), stock(pipe, "pixart", model.scheduler, ROWS[:1], 2, 4.0), atol=2e-5, rtol=0)


def test_the_noise_that_is_said_is_the_noise_that_was_added(every: Model) -> None:
    """A network that is right says eps, v = sqrt(abar) eps - sqrt(1 - abar) x0, or eps - x0; the way back is `unsaid`."""
    x0, eps = latents(every), latents(every).flip(0)
    t = torch.tensor([20, 870])
    x_t = diffusion.noised(every, x0, t, eps)
    picture, noise = diffusion.rates(every, t)
    right = {"epsilon": eps, "v_prediction": picture * eps - noise * x0, diffusion.FLOW: eps - x0}[diffusion.kind(every)]
    torch.testing.assert_close(diffusion.epsilon(every, x_t, t, right), eps, atol=1e-5, rtol=1e-4)
    if families.lacks(every, "noise"):
        with pytest.raises(ValueError, match=r"SD3 says a velocity.*take another method"):
            diffusion.unsaid(every, x_t, t, eps)
    else:
        torch.testing.assert_close(diffusion.unsaid(every, x_t, t, eps), right, atol=1e-5, rtol=1e-4)


def test_a_flow_is_straight() -> None:
    model = models.adapted(random_pipeline("sd3"))
    x, eps = latents(model), latents(model).flip(0)
    for t in (0, 250, 999.5):
        torch.testing.assert_close(diffusion.noised(model, x, torch.tensor(t), eps), (1 - t / 1000) * x + t / 1000 * eps)
    assert pairs.sampled(model, "pndm") is model, "the papers' protocol names pndm for all bases"


def test_labels_ahead_of_a_flow_stay_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = models.adapted(random_pipeline("sd3")), []
    monkeypatch.setattr(stereo, "predict", lambda model, x, t, mix: (asked.append(t), diffusion.predict(model, x, t, mix))[1])
    text, draws = diffusion.encode(model, ["a church"]), torch.Generator().manual_seed(0)
    stereo.forget(model, lambda _: (text, [(text, -1.0)]), stereo.Common(sampler_steps=4), steps=2, lr=1e-3, draws=draws, title="")
    assert len(asked) == 4 and max(asked) <= 999


def test_mixes_are_affine_and_texts_of_any_length_go_together(every: Model) -> None:
    """Alone or beside others, longer and shorter, 0 c and -c too: the same prediction."""
    text, null = diffusion.encode(every, ["a photo of a church"]), diffusion.encode(every, [""])
    x, t = latents(every), torch.tensor([30, 700])
    short = torch.randn(1, 4, text.shape[2], generator=torch.Generator().manual_seed(1))
    texts = [text, short, 0 * text, -text, null, text[:, -3:]]
    alone = [diffusion.predict(every, x, t, [(one, 1.0)]) for one in texts]
    for one, beside in zip(alone, diffusion.predictions(every, x, t, texts), strict=True):
        torch.testing.assert_close(one, beside, atol=2e-5, rtol=0)
    weights = [0.5, -2.0, 1.0, 3.0, -1.0, -0.5]
    mix = diffusion.predict(every, x, t, list(zip(texts, weights, strict=True)))
    torch.testing.assert_close(mix, sum(w * one for w, one in zip(weights, alone, strict=True)), atol=2e-4, rtol=0)
    (longer,) = diffusion.predictions(every, x, t, [short], text.shape[1])
    torch.testing.assert_close(longer, alone[1], atol=2e-5, rtol=0)
    assert all((one - alone[0]).abs().max() > 1e-3 for one in alone[1:4])


def test_a_partial_run_goes_on(every: Model) -> None:
    """Half-way and on from there is the whole way, but for a sampler that remembers its steps."""
    x, mix = latents(every), diffusion.guided(diffusion.encode(every, ["a tree"]), diffusion.encode(every, [""]), 3.0)
    whole, end = diffusion.denoise(every, x, mix, 6)
    part, t = diffusion.denoise(every, x, mix, 6, until=3)
    rest, _ = diffusion.denoise(every, part, mix, 6, start=3)
    assert end == 0 and 0 < t < 1000
    if every.family != "pixart":  # DPM-Solver remembers
        torch.testing.assert_close(rest, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["lms", "euler"])
def test_samplers_that_scale_hand_back_the_usual_scale(sampler: str) -> None:
    """x_t of a picture whose noise the sampler is told exactly stays on its path sqrt(abar) x0 + sqrt(1 - abar) eps."""
    model = models.adapted(random_pipeline("sd14"), sampler)
    x0, eps = 0.3 * latents(model), latents(model).flip(0)
    known = guidance.Steered((diffusion.encode(model, [""]),), lambda *_: (eps, None))
    scheduler = type(model.scheduler).from_config(model.scheduler.config)
    scheduler.set_timesteps(10)
    first = scheduler.timesteps[4]
    x, t = diffusion.denoise(model, diffusion.noised(model, x0, first[None].long(), eps), known, 10, until=8, start=4)
    torch.testing.assert_close(x, diffusion.noised(model, x0, torch.tensor([round(t)]), eps), atol=0.02, rtol=0)
    done, _ = diffusion.denoise(model, x, known, 10, start=8)
    torch.testing.assert_close(done, x0, atol=0.02, rtol=0)


def test_a_learned_word_that_is_a_known_one_says_the_same(family: Model) -> None:
    word = {"w": tokens.vector(family, "church")}
    read = diffusion.encode(family, ["a photo of a <w> in the snow", "a dog", "<w>"], word)
    known = diffusion.encode(family, ["a photo of a church in the snow", "a dog", "church"])
    torch.testing.assert_close(read, known, atol=1e-5, rtol=1e-5)
    assert read.shape[1:] == diffusion.encode(family, [""]).shape[1:]


def test_every_part_of_a_learned_word_counts(family: Model) -> None:
    """A gradient of the prediction reaches the part of the word for each encoder; a word for other encoders is refused in one line."""
    word = tokens.vector(family, "object").repeat(2, 1).requires_grad_()
    text = diffusion.encode(family, ["a photo of a <w>"], {"w": word})
    diffusion.predict(family, latents(family), 500, [(text, 1.0)]).pow(2).sum().backward()
    assert word.grad is not None
    assert all(part.abs().max() > 0 for part in word.grad.split(tokens.widths(family), dim=1))
    if family.others:
        with pytest.raises(ValueError, match="the learned word <w> has vectors of 8 numbers, the encoders of this model take"):
            diffusion.encode(family, ["a <w>"], {"w": torch.zeros(1, 8)})


def test_a_word_may_be_the_whole_context(family: Model) -> None:
    whole = diffusion.encode(family, ["a church"])[0]
    read = diffusion.encode(family, ["<w>", "a dog"], {"w": whole})
    torch.testing.assert_close(read, torch.stack([whole, diffusion.encode(family, ["a dog"])[0]]))


def test_sdxl_takes_no_text_for_zeros_and_its_pooled_text_behind_the_others() -> None:
    pipe = random_pipeline("sdxl")
    model = models.adapted(pipe)
    context, empty, pooled, _ = pipe.encode_prompt("a church", device=torch.device("cpu"))
    read = diffusion.encode(model, ["a church", ""])
    torch.testing.assert_close(read[:1, :-1], context)
    torch.testing.assert_close(read[:1, -1, : pooled.shape[1]], pooled)
    assert not empty.any() and not read[1].any()


def test_half_is_nearly_the_same(family: Model) -> None:
    single, half = drawn(family), drawn(family._replace(half=True))
    assert half.dtype == torch.float32 and not torch.equal(single, half)
    assert (single - half).abs().mean() < 0.03  # of a range of 2


@pytest.mark.parametrize("name", ["sdxl", "pixart", "sd3"])
def test_low_rank_factors_are_trained_taken_off_and_applied(name: str) -> None:
    model = models.adapted(random_pipeline(name))
    x, text = latents(model), diffusion.encode(model, ["a church"])
    before = diffusion.predict(model, x, 300, [(text, 1.0)])
    layers = {key for key, _ in model.unet.named_modules()}
    with edits.lora(model, "unet.*attn*.to_[qv].weight", rank=2, generator=torch.Generator().manual_seed(1)) as edit:
        for n, p in enumerate(edit.parameters):
            p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(n))
        student = diffusion.predict(model, x, 300, [(text, 1.0)])
        with edit.off():
            assert torch.equal(diffusion.predict(model, x, 300, [(text, 1.0)]), before)
        assert all(p.requires_grad for p in edit.parameters)
        made = edit.erasure()
    assert {key for key, _ in model.unet.named_modules()} == layers and not hasattr(model.unet, "peft_config")
    assert torch.equal(diffusion.predict(model, x, 300, [(text, 1.0)]), before) and (student - before).abs().max() > 1e-3
    torch.testing.assert_close(diffusion.predict(edits.apply(model, made), x, 300, [(text, 1.0)]), student, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_stock_pipelines_load_the_factors(name: str, tmp_path: Path) -> None:
    model = models.adapted(random_pipeline(name))
    with edits.lora(model, "unet.*attn*.to_[qv].weight", rank=2, generator=torch.Generator().manual_seed(1)) as edit:
        for p in edit.parameters:
            p.data.fill_(0.1)
        made = edit.erasure()
    save_file({key: value.contiguous() for key, value in models.factors(model, made).items()}, tmp_path / "made.safetensors")
    pipe = random_pipeline(name)
    pipe.load_lora_weights(tmp_path, weight_name="made.safetensors")
    theirs = stock(pipe, name, model.scheduler, ROWS[:1], 2, 3.0)
    plain = drawn(model, ROWS[:1], 2, 3.0)
    ours = drawn(edits.apply(model, made), ROWS[:1], 2, 3.0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - plain).abs().max() > 1e-3


def tiny_concept(concept: data.Concept, name: str) -> data.Concept:
    assert concept.initialiser in WORDS, f"{name}: the fixture's tokenizers need {concept.initialiser!r} in one token"
    return concept


METHODS = {  # a trained method through predict, one through factors, a closed form: on which families, with which settings
    "esd": (("sd20v", "sdxl", "pixart"), {"steps": 2, "batch": 2, "sampler_steps": 4}),
    "uce": (("sd20", "sdxl"), {}),
    "ca": (("sdxl", "pixart"), {"steps": 2, "batch": 2}),
}


@pytest.mark.parametrize(("method", "name"), [(method, name) for method, (names, _) in METHODS.items() for name in names])
def test_methods_run_as_they_are(method: str, name: str, concept: data.Concept, images: Any) -> None:
    model = models.adapted(random_pipeline(name))
    made = import_module(f"palimpsest.methods.{method}").erase(model, concept, images, seed=1, **METHODS[method][1])
    changed, before = edits.weights(model, made), edits.parameters(model, "unet.*")
    assert changed and all("attn2" in key for key in changed)
    assert all(value.isfinite().all() and not torch.equal(value, before[key]) for key, value in changed.items())


def test_concept_inversion_learns_on_every_family(family: Model, concept: data.Concept, images: Any, plain: data.Prompts) -> None:
    found = cce.attack(
        family, tiny_concept(concept, family.family), images, original=lambda: family, plain=plain, seed=0, vectors=2, steps=12, batch=4,
        pictures=4,
    )  # fmt: skip
    (word,) = found.vectors.values()
    assert word.shape == (2, sum(tokens.widths(family)))
    assert (word - tokens.vector(family, concept.initialiser)).abs().max() > 0.01
    assert drawn_with(family, found).isfinite().all()


def drawn_with(model: Model, found: data.Prompts) -> Tensor:
    return diffusion.drawn(model, data.Prompts(found.rows[:1], found.vectors), steps=2, guidance=2.0, batch=1)


def test_sdedit_and_safe_guidance_keep_to_the_schedule(family: Model) -> None:
    text, null = diffusion.encode(family, ["a photo of a tree"]), diffusion.encode(family, [""])
    x, eps, mix = latents(family), latents(family).flip(0), diffusion.guided(text, null, 4.0)
    moved = [(diffusion.sdedit(family, x, mix, eps, strength=s, steps=10) - x).pow(2).mean().item() for s in (0.1, 0.9)]
    assert moved[0] < moved[1]
    safe = guidance.safe(text, warmup=1, scale=2000, threshold=0.025, momentum=0.5, beta=0.7)(text, null, 4.0)
    if families.lacks(family, "noise"):
        with pytest.raises(ValueError, match="a guidance with a state needs the noise"):
            diffusion.denoise(family, x, safe, 3)
    else:
        assert not torch.allclose(diffusion.denoise(family, x, safe, 3)[0], diffusion.denoise(family, x, mix, 3)[0])


def test_what_a_family_lacks_has_a_reason_and_what_it_has_is_there(family: Model) -> None:
    assert set(families.of(family).LACKS) <= set(families.NEEDS)
    layers = [name for name, _ in family.unet.named_parameters() if ".attn2.to_k" in name]
    assert bool(layers) == (families.lacks(family, "cross-attention") is None)
    if layers:
        width = family.unet.get_parameter(layers[0]).shape[1]
        reads = width == diffusion.encode(family, [""]).shape[2]
        assert reads == (families.lacks(family, "keys of the text") is None)
    assert (len(family.readers) == 1 and family.family == "sd") == (families.lacks(family, "one encoder") is None)
    ends = any(name.endswith("</w>") for name in family.tokenizer.get_vocab())
    assert ends == (families.lacks(family, "clip words") is None)


@pytest.mark.parametrize("name", families.names())
def test_what_differs_is_read_without_importing_it(name: str) -> None:
    """The workflow, which imports no torch, asks the same constants."""
    nodes = ast.parse((TOP / "palimpsest/families" / f"{name}.py").read_text()).body
    said = {node.target.id: ast.literal_eval(node.value) for node in nodes if isinstance(node, ast.AnnAssign) and node.value}
    assert said["LACKS"] == families.named(name).LACKS and all(said["LACKS"].values())


@pytest.mark.parametrize("name", ["sd20", "sdxl", "pixart", "sd3"])
def test_a_folder_is_loaded_and_exported_again(name: str, tmp_path: Path) -> None:
    pipe = random_pipeline(name)
    pipe.save_pretrained(tmp_path / "a")
    model = models.load({"path": str(tmp_path / "a")})
    assert not any(p.requires_grad or p.dtype != torch.float32 for part in (model.unet, model.text_encoder) for p in part.parameters())
    models.pipeline(model).save_pretrained(tmp_path / "b")
    again = type(pipe).from_pretrained(tmp_path / "b", **families.of(model).EXTRAS)
    again.set_progress_bar_config(disable=True)
    ours = drawn(model, ROWS[:2])
    torch.testing.assert_close(ours, drawn(models.adapted(pipe), ROWS[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, stock(again, name, model.scheduler, ROWS[:2], 4, 4.0), atol=2e-5, rtol=0)


def test_fields_of_a_base(tmp_path: Path) -> None:
    pipe = random_pipeline("sd14")
    pipe.save_pretrained(tmp_path / "a")
    base, unet = {"path": str(tmp_path / "a")}, tmp_path / "unet"
    plain = drawn(models.load(base), ROWS[:2])
    last = models.load({**base, "channels_last": True})
    assert last.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(drawn(last, ROWS[:2]), plain, atol=1e-4, rtol=0)
    assert type(models.load({**base, "sampler": "lms"}).scheduler).__name__ == "LMSDiscreteScheduler"
    random_pipeline("sd14", seed=1).unet.save_pretrained(unet)
    assert not torch.allclose(drawn(models.load({**base, "unet": str(unet)}), ROWS[:2]), plain, atol=0.05)
    with edits.dense(last, "unet.conv_in.weight") as edit:  # a weight that lies otherwise is saved as any other
        edit.erasure().save(tmp_path / "e.json", {})
    assert torch.equal(edits.load(tmp_path / "e.json").tensors["unet.conv_in.weight"], last.unet.conv_in.weight)


@pytest.mark.parametrize("name", ALL)
def test_rounded_weights_draw_nearly_the_same(name: str, tmp_path: Path) -> None:
    random_pipeline(name).save_pretrained(tmp_path)
    base = {"path": str(tmp_path), "precision": "bf16"}
    single, computed, rounded = (
        drawn(made, ROWS[:2]) for made in (models.load({"path": base["path"]}), models.load(base), models.drawing(base))
    )
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, computed)
    assert 0 < (rounded - single).abs().mean() < 0.02  # of a range of 2
    assert models.drawing(base).unet.dtype == models.drawing(base).vae.dtype == torch.bfloat16
    assert torch.equal(drawn(models.drawing({"path": base["path"]}), ROWS[:2]), single)  # float32 is as it was


@pytest.mark.parametrize("name", ALL)
def test_a_compiled_network_is_one_graph(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_pipeline(name).save_pretrained(tmp_path)
    plainly = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plainly(self, backend="eager", fullgraph=True))  # seconds, not minutes
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = drawn(models.drawing({"path": str(tmp_path)}, compiled=True), ROWS[:2])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # network and decoder
    torch.testing.assert_close(compiled, drawn(models.load({"path": str(tmp_path)}), ROWS[:2]), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_compiled_network_draws_the_same(tmp_path: Path) -> None:
    random_pipeline("sd14").save_pretrained(tmp_path)
    base = {"path": str(tmp_path)}
    torch._dynamo.reset()
    torch.testing.assert_close(drawn(models.drawing(base, compiled=True), ROWS[:2]), drawn(models.load(base), ROWS[:2]), atol=1e-4, rtol=0)


def test_the_sampler_of_mini_is_as_it_was(mini: Model) -> None:
    assert type(mini.scheduler).__name__ == "DDIMScheduler" and (mini.family, mini.others) == ("sd", ())


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3"}
UNET = [  # of a network of two levels with one layer each
    (r"^time_embedding.linear_1", "time_embed.0"), (r"^time_embedding.linear_2", "time_embed.2"), (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"), (r"^conv_out", "out.2"), (r"^down_blocks.0.resnets.0", "input_blocks.1.0"),
    (r"^down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"), (r"^down_blocks.1.resnets.0", "input_blocks.3.0"),
    (r"^down_blocks.1.attentions.0", "input_blocks.3.1"), (r"^mid_block.resnets.0", "middle_block.0"),
    (r"^mid_block.attentions.0", "middle_block.1"), (r"^mid_block.resnets.1", "middle_block.2"),
    (r"^up_blocks.(\d).resnets.(\d)", lambda found: f"output_blocks.{2 * int(found[1]) + int(found[2])}.0"),
    (r"^up_blocks.(\d).attentions.(\d)", lambda found: f"output_blocks.{2 * int(found[1]) + int(found[2])}.1"),
    (r"^up_blocks.0.upsamplers.0", "output_blocks.1.2"), (r"conv_shortcut", "skip_connection"),
    *((rf"(blocks?.\d+.0|middle_block.2|middle_block.0)\.{name}\.", rf"\g<1>.{other}.") for name, other in RESNET.items()),
]  # fmt: skip
VAE = [
    (r"down_blocks.(\d).resnets", r"down.\1.block"), (r"down_blocks.(\d).downsamplers.0", r"down.\1.downsample"),
    (r"up_blocks.(\d).resnets", lambda found: f"up.{2 - int(found[1])}.block"), (r"conv_norm_out", "norm_out"),
    (r"up_blocks.(\d).upsamplers.0", lambda found: f"up.{2 - int(found[1])}.upsample"), (r"conv_shortcut", "nin_shortcut"),
    (r"mid_block.resnets.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
]  # fmt: skip


def in_one_file(pipe: Any) -> dict[str, Tensor]:
    """The weights of a pipeline under the names of CompVis's checkpoints."""

    def named(module: Any, prefix: str, rules: Any) -> dict[str, Tensor]:
        found = {}
        for key, value in module.state_dict().items():
            for old, new in rules:
                key = re.sub(old, new, key)
            found[prefix + key] = value.clone()
        return found

    text = named(pipe.text_encoder, "cond_stage_model.transformer.text_model.", [])
    return {**named(pipe.unet, "model.diffusion_model.", UNET), **named(pipe.vae, "first_stage_model.", VAE), **text}


def test_a_checkpoint_in_one_file(tmp_path: Path) -> None:
    pipe, file = random_pipeline("sd14"), tmp_path / "one.safetensors"
    pipe.save_pretrained(tmp_path / "like")
    for weights in (tmp_path / "like").rglob("*.safetensors"):
        weights.unlink()  # only how it is built is read from there
    save_file(in_one_file(pipe), file)
    model = models.load({"path": str(file), "config": str(tmp_path / "like")})
    torch.testing.assert_close(drawn(model, ROWS[:2]), drawn(models.adapted(pipe), ROWS[:2]), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"one.safetensors does not say how it is built; add `config:`"):
        models.load({"path": str(file)})
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FileNotFoundError, match=r"one.safetensors: ") as error:
        models.load({"path": str(file), "config": str(tmp_path / "like")})
    assert "\n" not in str(error.value)


def test_complaints_of_the_border(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: v1-4.ckpt is a pickle, .* name a .safetensors file"):
        models.load({"path": "v1-4.ckpt"})
    with pytest.raises(FileNotFoundError, match=r"nowhere.safetensors: no such model; `bases` in params.yaml"):
        models.load({"path": "nowhere.safetensors", "config": MINI["path"]})
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: .*no file named model_index.json"):
        models.load({"path": str(tmp_path)})
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="a FluxPipeline is of no family that palimpsest knows; it takes PixArtAlphaPipeline, "):
        models.load({"path": str(tmp_path)})
    with pytest.raises(ValueError, match="sampler: 'flow' does not go with StableDiffusionPipeline; it takes ddim, pndm, dpm, lms, euler"):
        models.load({**MINI, "sampler": "flow"})
    with pytest.raises(ValueError, match=r"family: .*model is of the family sd, not sdxl; say so in params.yaml"):
        models.load({**MINI, "family": "sdxl"})
    pipe = random_pipeline("sd3")
    with pytest.raises(ValueError, match="sampler: 'ddim' does not go with StableDiffusion3Pipeline; it takes flow"):
        models.adapted(pipe, "ddim")
    pipe.save_pretrained(tmp_path / "sd3")
    with pytest.raises(ValueError, match="attention: 'vanilla' is for layers that look at one thing at a time: SD3 attends"):
        models.load({"path": str(tmp_path / "sd3"), "attention": "vanilla"})
    pipe.text_encoder_3 = None
    with pytest.raises(ValueError, match="path: a text encoder or its tokenizer is left out, and palimpsest draws with all of them"):
        models.adapted(pipe)
    pipe = random_pipeline("sdxl")
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    pipe.save_pretrained(tmp_path / "xl")
    with pytest.raises(ValueError, match="says force_zeros_for_empty_prompt False, palimpsest draws with True alone"):
        models.load({"path": str(tmp_path / "xl")})
    pipe = random_pipeline("sd14")
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="the network predicts 'sample', palimpsest takes epsilon and v_prediction"):
        models.adapted(pipe)


def test_a_tokenizer_without_its_files_is_not_taken(tmp_path: Path) -> None:
    """It would be read as one of no words, and every text as none."""
    random_pipeline("sd14").save_pretrained(tmp_path)
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"path: a tokenizer knows \d tokens, its text encoder 49408: files of the tokenizer are missing"):
        models.load({"path": str(tmp_path)})


def test_pickles_in_a_folder_are_not_read(tmp_path: Path) -> None:
    random_pipeline("sd14").save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.rglob("*.bin"))
    with pytest.raises(FileNotFoundError, match="safetensors") as error:
        models.load({"path": str(tmp_path)})
    assert "\n" not in str(error.value)


class Hub(BaseHTTPRequestHandler):
    """A hub that has no model to give, and says why as the real one does."""

    codes: ClassVar = {
        "gated": (403, "GatedRepo"),
        "unknown": (404, "RepoNotFound"),
        "older": (404, "RevisionNotFound"),
        "broken": (403, ""),
    }

    def answer(self) -> None:
        status, code = next(said for owner, said in self.codes.items() if f"/{owner}/" in self.path)
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = answer

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path),
        }.items():  # fmt: skip
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield monkeypatch
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gated/sd3", "gated/sd3 is gated; accept its licence on its page, then `hf auth login`"),
        ("unknown/sd", "unknown/sd is not known to the hub; name a folder or another model in params.yaml"),
        ("older/sd", "older/sd at abc is not known to the hub; name a folder or another model in params.yaml"),
    ],
)
def test_what_the_hub_refuses_is_one_line(path: str, said: str, hub: pytest.MonkeyPatch) -> None:
    """The same where the model is loaded and where it is looked for beforehand."""
    revision = "abc" if path == "older/sd" else None
    with pytest.raises(FileNotFoundError) as error:
        models.load({"path": path, "revision": revision})
    assert str(error.value) == said and error.value.__suppress_context__
    with pytest.raises(ParamsError) as early:
        ready.model("bases.tried", path, revision)
    assert str(early.value) == f"bases.tried needs {said.replace(' is ', ', which is ')}" and early.value.__suppress_context__


def test_offline_is_one_line(hub: pytest.MonkeyPatch) -> None:
    hub.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"^some/model is not in the cache of the hub \(.*\), and HF_HUB_OFFLINE is set; fetch it"):
        models.load({"path": "some/model"})


def test_the_configuration_of_a_file_may_be_gated(hub: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file({"one": torch.zeros(1)}, file)
    with pytest.raises(FileNotFoundError, match=r"^gated/sd3 is gated; accept its licence"):
        models.load({"path": str(file), "config": "gated/sd3"})


def test_a_hub_that_fails_is_one_line(hub: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^broken/sd cannot be had from the hub: .*403.*; fetch it where there is a network"
    ) as error:
        models.load({"path": "broken/sd"})
    assert "\n" not in str(error.value)
