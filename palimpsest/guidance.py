"""Guidances that are no mix of predictions. `guided` in diffusion.py is the ordinary one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from palimpsest.diffusion import guided
from palimpsest.types import Latents, Mix, Steered, Text


def safe(
    concept: Text, *, warmup: int, scale: float, threshold: float, momentum: float, beta: float
) -> Callable[[Text, Text, float], Mix | Steered]:
    """Safe latent diffusion (Schramowski et al. 2023, Equations 5 to 8): away from a text where the prediction comes close to it.

    Args:
        concept: the text to stay away from, "1 n d".
        warmup: steps of the schedule without it; the momentum gathers from the first.
        scale, threshold: s_S and lambda; where eps(text) - eps(concept) < lambda, its size times s_S counts, up to 1 (the equation prints
            max, both official programs take min).
        momentum, beta: s_m, and how much of the momentum stays from step to step.

    Returns:
        a guidance that, as in the official code, is the ordinary one where scale < 1 or its strength s_g <= 1.
    """

    def guide(text: Text, null: Text, strength: float) -> Mix | Steered:
        if scale < 1 or strength <= 1:
            return guided(text, null, strength)

        def combine(said: tuple[Latents, ...], step: int, state: Any) -> tuple[Latents, Any]:
            e_null, e_text, e_concept = said
            away = e_text - e_concept
            mu = torch.where(away < threshold, (scale * away.abs()).clamp(max=1), 0)
            before = torch.zeros_like(e_null) if state is None else state
            gamma = mu * (e_concept - e_null) + momentum * before
            pull = e_text - e_null - (gamma if step >= warmup else 0)
            return e_null + strength * pull, beta * before + (1 - beta) * gamma

        return Steered((null, text, concept), combine)

    return guide
