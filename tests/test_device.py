"""Nothing mixes devices: every verb on a device that there is not (pretend.py), beside the same on the CPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pretend
import pytest
import test_plugins
import torch
from conftest import MINI, random_model
from families import PIPELINES, random_pipeline
from test_plugins import ATTACKS, METHODS, attacked, erased, living
from test_scores import MINI as JUDGES
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.testing import assert_close

from palimpsest import data, diffusion, edits, families, models, pairs, scores, types
from palimpsest.attacks import cce
from palimpsest.methods import esd
from palimpsest.types import Model

CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # of float64: what is several operations there may be one kernel on the CPU
There = Callable[[], AbstractContextManager[None]]


def moved(model: Model) -> Model:
    for part in (model.unet, model.vae, *(reader.text_encoder for reader in model.readers)):
        pretend.moved(part)
    return model


def here(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in tensors.items()}


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    """A block in which the device is there, and whatever asks for the hardware is given it."""

    def forgotten() -> None:
        ours = [module for name, module in sys.modules.items() if name.startswith("palimpsest")]
        for found in [value for module in ours for value in vars(module).values()]:
            if hasattr(found, "cache_clear"):
                found.cache_clear()

    @contextmanager
    def block() -> Iterator[None]:
        forgotten()
        with monkeypatch.context() as patch, pretend.device():
            for name, module in list(sys.modules.items()):
                if name.startswith("palimpsest") and getattr(module, "hardware", None) is types.hardware:
                    patch.setattr(module, "hardware", lambda: torch.device(pretend.NAME))
            yield
        forgotten()

    return block


def test_the_device_refuses_what_a_gpu_refuses(there: There) -> None:
    with there():
        far, near = torch.ones(3, device=pretend.NAME), torch.ones(3)
        assert far.device.type == pretend.NAME and (far + 1).sum().item() == 6 and (far * torch.tensor(2.0)).tolist() == [2, 2, 2]
        assert far[torch.tensor([1])].shape == (1,) and far[[0, 2]].tolist() == [1, 1], "places may be told from the CPU"
        for wrong in (
            lambda: far + near,
            lambda: near[far.long()],
            lambda: torch.nn.functional.linear(near, far[None]),
            lambda: torch.randn(3, generator=torch.Generator(), device=pretend.NAME),
            lambda: torch.cat([far, near]),
            lambda: far.numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError), match=r"same device|'cpu'|\.cpu\(\)"):
                wrong()


def test_training_there_is_training_here(there: There) -> None:
    def trained(device: str) -> list[float]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2).to(device)
        descent = torch.optim.AdamW(layer.parameters(), lr=0.1)
        for _ in range(3):
            descent.zero_grad()
            layer(torch.ones(4, 3).to(device)).pow(2).mean().backward()
            descent.step()
        return layer.weight.flatten().tolist()

    before = trained("cpu")
    with there():
        assert trained(pretend.NAME) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_method(name: str, double: None, there: There, concept: Any, images: Any) -> None:
    expected = erased(name, random_model(), concept, images)
    with there():
        made = erased(name, moved(random_model()), concept, images)
    assert_close(here(made.tensors), here(expected.tensors), **CLOSE)
    assert_close(here(made.found), here(expected.found), **CLOSE)


@pytest.mark.parametrize("name", METHODS)
def test_the_device_holds_an_original_once_and_where_it_is_asked(name: str, there: There, concept: Any, images: Any) -> None:
    """Beside what is trained: never twice, and not at all by the methods without a teacher."""
    held: list[Counter[str]] = []

    def look(*_: Any) -> None:
        found = [key for edit in living(edits.Edit) for key, value in edit.original.items() if type(value) is pretend.There]
        held.append(Counter(found))

    hook = register_optimizer_step_pre_hook(look)
    try:
        with there():
            erased(name, moved(random_model()), concept, images)
    finally:
        hook.remove()
    counts = [count for one in held for count in one.values()]
    assert max(counts, default=0) <= 1
    assert bool(counts) == (name in ("advunlearn", "esd", "stereo"))  # the others learn low-rank factors or nothing, or have no teacher


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, double: None, there: There, concept: Any, images: Any, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = attacked(name, random_model(), concept, images, plain)
    monkeypatch.setattr(test_plugins, "random_model", lambda: moved(random_model()))
    with there():
        made = attacked(name, moved(random_model()), concept, images, plain)
    assert made.rows == expected.rows
    assert_close(here(made.vectors), here(expected.vectors), **CLOSE)


def test_attack_on_a_guidance_with_a_state(double: None, there: There, concept: Any, images: Any, plain: Any) -> None:
    def made(model: Model) -> dict[str, Tensor]:
        safe = edits.apply(model, erased("sld", model, concept, images, text="church"))
        return here(attacked("cce", safe, concept, images, plain).vectors)

    expected = made(random_model())
    with there():
        assert_close(made(moved(random_model())), expected, **CLOSE)


@pytest.mark.parametrize("name", PIPELINES)
def test_drawing_and_redrawing(name: str, there: There, images: Any) -> None:
    def made(model: Model) -> list[Tensor]:
        rows = images.rows[:2]
        prompts = [row.prompt for row in rows]
        drawn = diffusion.drawn(model, data.Prompts(prompts), steps=3, guidance=4.0, batch=2)
        redrawn = pairs.redraw(model, images, prompts, [(0, 0), (1, 1)], word="church", sampler="pndm", strength=0.5, steps=4, guidance=4.0)
        return [drawn.cpu(), redrawn.cpu()]

    expected = made(models.adapted(random_pipeline(name)))
    with there():
        assert_close(made(moved(models.adapted(random_pipeline(name)))), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in ("sd14", "sd20")])
def test_an_edit_and_an_attack_on_every_family(name: str, there: There, concept: Any, images: Any, plain: Any) -> None:
    with there():
        model = moved(models.adapted(random_pipeline(name)))
        if not families.lacks(model, "cross-attention"):
            made = esd.erase(model, concept, images, seed=1, steps=1, batch=2, sampler_steps=4)
            assert made.tensors and all(value.isfinite().all() for value in made.tensors.values())
        found = cce.attack(model, concept, images, original=lambda: model, plain=plain, seed=0, steps=2, batch=2, pictures=2)
        assert all(value.isfinite().all() for value in found.vectors.values())


def test_judges(there: There, images: Any) -> None:
    """Of the embedded model, by the function that the scripts call."""

    def made(model: Model) -> dict[str, Tensor]:
        prompts = data.Prompts([row.prompt for row in images.rows[:2]])
        pictures = data.Images.of(prompts.rows, diffusion.drawn(model, prompts, steps=2, guidance=4.0, batch=2))
        return scores.together(JUDGES, pictures, images).columns

    expected = made(models.load(MINI))
    model = models.load(MINI)
    with there():
        found = made(moved(model))
    assert all(type(column) is Tensor and column.device.type == "cpu" for column in found.values())
    assert_close(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)
