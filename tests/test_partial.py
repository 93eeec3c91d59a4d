"""x_t by partial denoising: rows drawn together are those drawn alone, whatever the sampler remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
from conftest import random_model

from palimpsest import diffusion, models, partial
from palimpsest.methods import advunlearn, esd
from palimpsest.types import Model

SAMPLERS = {name: how for name, how in models.SAMPLERS.items() if name != "flow"}
CLOSE = {"dpm": 1e-5, "euler": 1e-5}  # these step in float32; the others are compared in float64
STOPS = [3, 1, 4, 1, 2, 3]


def sampled_by(name: str) -> Model:
    """The tiny model with another sampler."""
    (kind, settings), model = SAMPLERS[name], random_model()
    return model._replace(scheduler=getattr(diffusers, kind).from_config(model.scheduler.config, **settings))


def both(model: Model, stops: Sequence[int], start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows together and each alone."""
    x, until = diffusion.noise(model, torch.Generator().manual_seed(5), len(stops)), torch.tensor(stops)
    texts, null = diffusion.encode(model, ["church", "a castle"])[torch.arange(len(stops)) % 2], diffusion.encode(model, [""])
    before = x.clone()
    together = partial.partly(model, x, until, texts, null, steps=5, start=start, guidance=3.0)
    mixes = [diffusion.guided(text[None], null, 3.0) for text in texts]
    alone = [diffusion.denoise(model, x[[n]], mixes[n], 5, stop, start)[0] for n, stop in enumerate(stops)]
    assert torch.equal(x, before)
    return together, torch.cat(alone)


@pytest.mark.parametrize("start, stops", [(0, [0, *STOPS]), (1, [2, *STOPS[:1], 5, 2, 4])])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_rows_drawn_together_are_those_drawn_alone(sampler: str, start: int, stops: list[int], double: None) -> None:
    together, alone = both(sampled_by(sampler), stops, start)
    torch.testing.assert_close(together, alone, atol=CLOSE.get(sampler, 1e-9), rtol=0)


def test_rows_that_go_on_longer_go_on_together_where_the_sampler_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    for sampler, rows in {"ddim": [6, 4, 3, 1], "pndm": [2, 1, 1, 2, 2, 2, 1, 1, 1, 1]}.items():
        model, seen = sampled_by(sampler), []
        forward = type(model.unet).forward
        with monkeypatch.context() as patch:
            patch.setattr(type(model.unet), "forward", lambda unet, x, *how, **more: seen.append(len(x)) or forward(unet, x, *how, **more))
            partial.partly(
                model, diffusion.noise(model, torch.Generator(), 6), torch.tensor(STOPS), torch.zeros(6, 24, 32), torch.zeros(1, 24, 32),
                steps=5, start=0, guidance=3.0,
            )  # fmt: skip
        assert seen == [2 * count for count in rows], sampler


QUICK: dict[str, dict[str, Any]] = {
    "advunlearn": {"steps": 3, "warmup": 1, "attack_steps": 2, "attack_lr": 0.02, "lr": 1e-3, "retain_batch": 2, "sampler_steps": 6},
    "esd": {"form": "2025", "eta": 2.0, "steps": 5, "batch": 2, "lr": 1e-3, "sampler_steps": 6},
}


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
@pytest.mark.parametrize("method", [advunlearn, esd])
def test_how_many_steps_are_drawn_ahead_changes_only_rounding(method: Any, sampler: str, concept: Any, images: Any, double: None) -> None:
    given = QUICK[method.__name__.rpartition(".")[2]]
    one, two = (method.erase(sampled_by(sampler), concept, images, seed=0, ahead=ahead, **given).tensors for ahead in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=1e-9, rtol=0) for name in one)
