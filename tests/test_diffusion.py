"""Drawing: equal to diffusers' own pipeline, the same bytes twice, and no influence of the batch."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import on_disk

from palimpsest import data, diffusion
from palimpsest.models import pipeline
from palimpsest.types import Model

ROWS = [
    data.Prompt(text, 50 + n)
    for n, text in enumerate(["a photo of a church in the snow", "a photo of a dog at sea", "a crayon drawing of a bus", "a cat", "a tree"])
]


def drawn(model: Model, rows: list[data.Prompt], batch: int) -> list[torch.Tensor]:
    return list(diffusion.draw(model, data.Prompts(rows), steps=6, guidance=4.0, batch=batch))


def test_draw_equals_the_stock_pipeline(mini: Model) -> None:
    ours = torch.stack([p / 2 + 0.5 for p in drawn(mini, ROWS, batch=5)])
    stock = pipeline(mini)
    stock.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(row.seed) for row in ROWS]
    texts = [row.text for row in ROWS]
    made = stock(texts, generator=generators, num_inference_steps=6, guidance_scale=4.0, height=64, width=64, output_type="pt").images
    torch.testing.assert_close(ours, made, atol=1e-4, rtol=0)


def test_same_seed_same_bytes(mini: Model, tmp_path: Path) -> None:
    written = []
    for run in ("a", "b"):
        on_disk(tmp_path / run / "manifest.json", ROWS, drawn(mini, ROWS, batch=4))
        written.append({file.name: file.read_bytes() for file in sorted((tmp_path / run).rglob("*")) if file.is_file()})
    assert written[0] == written[1] and len(written[0]) == len(ROWS) + 1


def test_a_picture_does_not_depend_on_its_neighbours(mini: Model) -> None:
    """Bits do not depend on who stands beside a row, since short batches are filled up; another batch size is another kernel."""
    together = drawn(mini, ROWS, batch=4)
    alone = [drawn(mini, [row], batch=4)[0] for row in ROWS]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    other = drawn(mini, ROWS, batch=2)
    assert max((a - b).abs().max().item() for a, b in zip(together, other, strict=True)) < 2 / 255


def test_denoise_stops_and_goes_on(mini: Model) -> None:
    x = diffusion.noise(mini, torch.Generator().manual_seed(1), 2)
    mix = diffusion.guided(diffusion.encode(mini, ["a dog"]), diffusion.encode(mini, [""]), 4.0)
    whole, level = diffusion.denoise(mini, x, mix, 8)
    part, t = diffusion.denoise(mini, x, mix, 8, until=5)
    rest, _ = diffusion.denoise(mini, part, mix, 8, start=5)
    assert level == 0 and 0 < t < 999
    assert torch.equal(whole, rest)


def test_sdedit_keeps_more_of_the_picture_at_less_strength(mini: Model) -> None:
    draws = torch.Generator().manual_seed(2)
    x, eps = diffusion.noise(mini, draws, 2), diffusion.noise(mini, draws, 2)
    mix = diffusion.guided(diffusion.encode(mini, ["a photo of a tree"]), diffusion.encode(mini, [""]), 4.0)
    moved = [(diffusion.sdedit(mini, x, mix, eps, strength=s, steps=10) - x).pow(2).mean().item() for s in (0.2, 0.5, 0.9)]
    assert moved == sorted(moved) and moved[0] < moved[-1]
