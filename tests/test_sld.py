"""Safe latent diffusion: the guidance equals diffusers' own pipeline, vanishes where it should, and goes with the model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model

from palimpsest import data, diffusion, edits, guidance
from palimpsest.methods import sld
from palimpsest.types import Model, Steered

ROWS = [data.Prompt("a photo of a church", 3), data.Prompt("a dog in the snow", 4)]


def drawn(model: Model, steps: int = 12, guidance: float = 7.5) -> torch.Tensor:
    return torch.stack(list(diffusion.draw(model, data.Prompts(ROWS), steps=steps, guidance=guidance, batch=2)))


@pytest.mark.parametrize("strength", list(sld.STRENGTHS))
def test_pictures_equal_those_of_the_pipeline_in_diffusers(strength: Any, concept: Any, images: Any) -> None:
    warnings.simplefilter("ignore")
    from diffusers import StableDiffusionPipelineSafe

    settings = {**sld.STRENGTHS[strength]._asdict(), "warmup": min(4, sld.STRENGTHS[strength].warmup)}
    made = sld.erase(random_model(), concept, images, seed=0, strength=strength, warmup=settings["warmup"], text="a church")
    parts = random_model()
    stock = StableDiffusionPipelineSafe(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=parts.unet, scheduler=parts.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    stock.safety_concept = "a church"
    stock.set_progress_bar_config(disable=True)
    x = diffusion.noise(parts, [torch.Generator().manual_seed(row.seed) for row in ROWS])
    theirs = stock(
        [row.text for row in ROWS], latents=x, num_inference_steps=12, guidance_scale=7.5, output_type="np", height=32, width=32,
        sld_guidance_scale=settings["scale"], sld_warmup_steps=settings["warmup"], sld_threshold=settings["threshold"],
        sld_momentum_scale=settings["momentum"], sld_mom_beta=settings["beta"],
    ).images  # fmt: skip
    ours = drawn(edits.apply(random_model(), made))
    torch.testing.assert_close(ours / 2 + 0.5, torch.from_numpy(theirs).permute(0, 3, 1, 2), atol=2e-4, rtol=0)
    assert not torch.allclose(ours, drawn(random_model()), atol=1e-3), "and they are not the plain ones"


@pytest.mark.parametrize("strength", list(sld.STRENGTHS.values()))
def test_guidance_is_the_equations_number_by_number(strength: sld.Strength) -> None:
    """Equations 3 to 8 on plain numbers, over steps on both sides of the warm-up; one difference lies on the threshold, where mu is 0."""
    draws, texts = torch.Generator().manual_seed(0), torch.zeros(3, 1, 1, 1, dtype=torch.float64).unbind()
    s_g, nu, state, seen = 7.5, [0.0] * 8, None, set()
    steered = guidance.safe(texts[2], **strength._asdict())(texts[1], texts[0], s_g)
    for step in range(strength.warmup - 2, strength.warmup + 3):
        null, text, concept = 0.05 * torch.randn(3, 8, dtype=torch.float64, generator=draws)
        text[0], concept[0] = strength.threshold, 0.0
        assert isinstance(steered, Steered)
        found, state = steered.combine((null, text, concept), step, state)
        for n, (e0, e_p, e_s) in enumerate(zip(null.tolist(), text.tolist(), concept.tolist(), strict=True)):
            mu = 0.0 if e_p - e_s >= strength.threshold else min(1.0, abs(strength.scale * (e_p - e_s)))
            gamma = mu * (e_s - e0) + strength.momentum * nu[n]
            nu[n] = strength.beta * nu[n] + (1 - strength.beta) * gamma
            seen.add(mu > 0)
            assert found[n].item() == pytest.approx(e0 + s_g * (e_p - e0 - (gamma if step >= strength.warmup else 0.0)), abs=1e-12)
            assert state[n].item() == pytest.approx(nu[n], abs=1e-12)
    assert seen == {True, False}


@pytest.mark.parametrize("scale, guidance, off", [(0.99, 7.5, True), (5000.0, 1.0, True), (1.0, 7.5, False), (5000.0, 1.01, False)])
def test_it_is_off_where_the_official_program_is(scale: float, guidance: float, off: bool, concept: Any, images: Any) -> None:
    made = sld.erase(random_model(), concept, images, seed=0, strength="max", scale=scale)
    plain, steered = (drawn(model, guidance=guidance) for model in (random_model(), edits.apply(random_model(), made)))
    assert torch.equal(steered, plain) == off


@pytest.mark.parametrize("settings", [{"warmup": 12}, {"scale": 0.0, "momentum": 0.0}])
def test_without_its_share_it_is_plain_sampling(settings: dict, tiny: Model, concept: Any, images: Any) -> None:
    made = sld.erase(tiny, concept, images, seed=0, strength="max", **settings)
    plain = drawn(tiny)
    torch.testing.assert_close(drawn(edits.apply(tiny, made)), plain, atol=1e-5, rtol=0)


def test_it_survives_the_disk(tiny: Model, concept: Any, images: Any, tmp_path: Path) -> None:
    made = sld.erase(tiny, concept, images, seed=0, strength="strong", text="{concept} style")
    assert made.guidance["text"] == "church style" and made.guidance["warmup"] == 7 and not made.tensors
    made.save(tmp_path / "e.json", {})
    loaded = edits.load(tmp_path / "e.json")
    assert torch.equal(drawn(edits.apply(tiny, loaded)), drawn(edits.apply(tiny, made)))


def test_a_text_with_other_braces_is_refused(tiny: Model, concept: Any, images: Any) -> None:
    with pytest.raises(ValueError, match=r"^sld: text: unknown {word} in '{word}'; allowed: {concept}$"):
        sld.erase(tiny, concept, images, seed=0, text="{word}")


def test_the_weights_stay(tiny: Model, concept: Any, images: Any, state: Any) -> None:
    before = state(tiny)
    erased = edits.apply(tiny, sld.erase(tiny, concept, images, seed=0))
    assert erased.guide is not tiny.guide
    assert all(torch.equal(value, before[key]) for key, value in state(erased).items())
