"""Target pictures of attacks: what the unedited model draws for each plain prompt, made once for all methods."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.data import Prompts, to_bytes
from palimpsest.diffusion import moments, scaled
from palimpsest.reuse import once
from palimpsest.search import Draw, Judge
from palimpsest.types import Latents, Model


class Target(NamedTuple):
    """A picture of a prompt by the unedited model."""

    moments: Tensor  # "2c h w"
    pixels: Tensor  # "3 h w" in [-1, 1]
    shows: bool  # whether the judge sees the concept in it


def drawn(
    original: Callable[[], Model], plain: Prompts, draw: Draw, judge: Judge, *, batch: int, pictures: int = 1, span: str = "signed"
) -> dict[int, Target]:
    """The unedited model's picture of each prompt, by unit.

    Args:
        pictures: drawn of each, the first with the prompt's own seed; the one that shows the concept most is taken.
        span: "signed" is [-1, 1]; "unit" hands the VAE pictures in [0, 1], as P4D's own code does.
    """
    rows = [row._replace(seed=row.seed + n) for row in plain.rows for n in range(pictures)]

    def make() -> tuple[dict[str, Tensor], None]:
        model = original()
        pixels = to_bytes(draw(model, Prompts(rows), batch=batch)) / 127.5 - 1  # as they would lie on the disk
        values, shows = judge(pixels, rows)
        best = torch.arange(len(plain.rows)) * pictures + values.view(-1, pictures).argmax(1)
        seen = pixels[best] if span == "signed" else pixels[best] / 2 + 0.5
        return {"moments": moments(model, seen), "pixels": pixels[best], "shows": shows[best]}, None

    settings = {"prompts": [row.unit for row in plain.rows], "batch": batch, "pictures": pictures, "span": span}
    made, _ = once("targets", settings, make)
    found = zip(plain.rows, made["moments"], made["pixels"], made["shows"].tolist(), strict=True)
    return {row.unit: Target(*target) for row, *target in found}


def shown(plain: Prompts, aims: Mapping[int, Target], count: int | None) -> Prompts:
    """The first `count` prompts for which the unedited model shows the concept, as in Dark Miner, whose unedited model succeeds with all.

    Raises:
        ValueError: there is none.
    """
    rows = [row for row in plain.rows if aims[row.unit].shows][:count]
    if not rows:
        raise ValueError(
            f"only_shown: the unedited model shows the concept for none of {len(plain.rows)} prompts; see the concept's detector"
        )
    print(f"palimpsest: {len(plain.rows)} prompts, {len(rows)} taken, for which the unedited model shows the concept", file=sys.stderr)
    return replace(plain, rows=rows)


def latent(model: Model, target: Target) -> Latents:
    """The mean of the posterior of a target picture, "c h w"."""
    return scaled(model, target.moments.to(model.device).chunk(2)[0])
