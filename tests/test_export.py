"""scripts/export.py: a stock folder of every kind of erasure that has weights, and one line for what has none."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MINI, TOP
from diffusers import StableDiffusionPipeline

from palimpsest import edits, models
from palimpsest.types import Model
from palimpsest.workflow import paths

Export = Callable[..., None]


def lora(model: Model) -> edits.Erasure:
    draws = torch.Generator().manual_seed(0)
    with edits.lora(model, "unet.*attn2.to_v.weight", rank=2, generator=draws, start="normal") as edit:
        with torch.no_grad():
            for factor in edit.parameters:
                factor.copy_(torch.randn(factor.shape, generator=draws) / 10)
        return edit.erasure()


def matrix(model: Model) -> edits.Erasure:
    size = model.unet.config.cross_attention_dim
    return edits.Erasure("matrix", {"right": torch.eye(size) + 0.01}, where="unet.*attn2.to_[kv].weight")


def guidance(model: Model) -> edits.Erasure:
    return edits.Erasure("guidance", guidance={"text": "a church"})


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Where nothing is but the embedded model."""
    for name in ("params.yaml", "dvc.yaml", "data", "scripts", "rules"):
        (tmp_path / name).symlink_to(TOP / name)
    monkeypatch.chdir(tmp_path)

    def run(concept: str, method: str, base: str = "mini") -> None:
        monkeypatch.setattr(sys, "argv", ["scripts/export.py", concept, method, base, "0", "stock"])
        runpy.run_path(str(TOP / "scripts/export.py"), run_name="__main__")

    return run


@pytest.mark.parametrize(("method", "made"), [("dm2", lora), ("uce", matrix)])
def test_the_stock_folder_is_the_erased_model(method: str, made: Callable[[Model], edits.Erasure], export: Export, mini: Model) -> None:
    file = Path(paths.erasure("church", method, "mini", 0))
    file.parent.mkdir(parents=True)
    erasure = made(models.load(MINI))
    erasure.save(file, {})
    export("church", method)
    plain, stock = edits.weights(mini, erasure), StableDiffusionPipeline.from_pretrained("stock", safety_checker=None)
    for name, value in plain.items():
        torch.testing.assert_close(stock.unet.get_parameter(name.removeprefix("unet.")), value)
    assert Path("stock/pytorch_lora_weights.safetensors").exists() == (method == "dm2")
    if method == "dm2":
        fresh = StableDiffusionPipeline.from_pretrained("data/mini/model", safety_checker=None)
        fresh.load_lora_weights("stock")
        fresh.fuse_lora()
        fresh.unload_lora_weights()
        for name, value in plain.items():
            torch.testing.assert_close(fresh.unet.get_parameter(name.removeprefix("unet.")), value, atol=1e-6, rtol=1e-5)


def test_what_cannot_be_exported_is_said_in_one_line(export: Export, mini: Model) -> None:
    for names, said in {
        ("chuch", "uce"): "concept: unknown 'chuch'; did you mean 'church'",
        ("church", "dm9"): "method: unknown 'dm9'; did you mean 'dm2'",
        ("church", "uce", "mini9"): "base: unknown 'mini9'; did you mean 'mini'",
        ("church", "uce"): "uce/adapters/mini-s0.json is not there; `snakemake --cores 1",
    }.items():
        with pytest.raises(SystemExit, match=said):
            export(*names)
    file = Path(paths.erasure("church", "sld", "mini", 0))
    file.parent.mkdir(parents=True)
    guidance(mini).save(file, {})
    with pytest.raises(SystemExit, match="sld is a guidance, without weights to export"):
        export("church", "sld")
    assert not Path("stock").exists()
