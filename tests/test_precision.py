"""`precision: bf16`: the UNet computes in bfloat16, what is trained stays in float32, and what comes out is nearly the same.

Adam's first steps go by the signs of the gradients, so that rounding turns over the smallest: hence the angle between the two changes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from conftest import MINI
from test_plugins import METHODS, SMALL
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palimpsest import data, diffusion, edits, models
from palimpsest.methods import fmn
from palimpsest.types import Model

TRAINED = [name for name in METHODS if name in SMALL]  # the others solve an equation, or change nothing


def change(model: Model, made: edits.Erasure) -> Tensor:
    """What is added to all weights, in one row."""
    before, after = edits.parameters(model, "*"), edits.weights(model, made)
    return torch.cat([(after.get(name, value) - value).flatten() for name, value in before.items()])


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_makes_nearly_the_same_change(name: str, tiny: Model, concept: Any, images: Any) -> None:
    method = import_module(f"palimpsest.methods.{name}")
    single, half = (method.erase(tiny._replace(half=half), concept, images, seed=3, **SMALL[name]) for half in (False, True))
    assert {tensor.dtype for tensor in half.tensors.values()} == {torch.float32}
    a, b = change(tiny, single), change(tiny, half)
    assert not torch.equal(a, b)
    assert cosine_similarity(a, b, dim=0) > 0.9
    assert 0.95 < b.norm() / a.norm() < 1.05


def test_attention_is_summed_in_single_precision(tiny: Model, concept: Any, images: Any) -> None:
    """Forget-Me-Not's loss, whose maps are bfloat16."""
    log = fmn.erase(tiny._replace(half=True), concept, images, seed=3, use_ti=False, steps=4, lr=1e-3).log["attention"]
    losses = torch.tensor([row["loss"] for row in log])
    assert not (losses == losses.bfloat16().float()).any()


def test_pictures_are_nearly_the_same() -> None:
    prompts = data.Prompts([data.Prompt("a photo of a church in the snow", 1), data.Prompt("a crayon drawing of a bus", 2)])
    single, half = (
        torch.stack(list(diffusion.draw(models.load({**MINI, "precision": precision}), prompts, steps=10, guidance=4.0, batch=2)))
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32 and not torch.equal(single, half)
    assert (single - half).abs().mean() < 0.01  # of a range of 2
