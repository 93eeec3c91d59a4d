"""Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models (RECE). Gong, Chen, Wei, Chen, Jiang. ECCV 2024.
arXiv 2407.12383.

UCE, and then round after round: find in closed form the vectors that still mean the concept to the edited keys and values (Equation 8),

    C_adv = C K^T,  K = (rho I + sum_l W_l^T W_l)^-1 sum_l W_l^T W_l^orig,

and edit these away as UCE does. Since every edit is one shared right matrix, W_l = W_l^orig M, and with G = sum_l W_l^orig^T W_l^orig

    K = (rho I + M^T G M)^-1 M^T G:

the whole run stays in matrices of the text's width. Official code: CharlesGong12/RECE, `train.py` @403a67f.
Differs from the official code: all rounds are made; the official script saves the round with the fewest positives of NudeNet on validation
prompts. Its third regularisation (surrogate) is left out: it inverts matrices that UCE makes all but singular. The first edit is UCE's
paper form and not a file that was downloaded. Solved in float64 and not layer by layer in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from palimpsest import edits
from palimpsest.closed_form import WHERE, Edited, matrix, states, tails
from palimpsest.data import Concept, Images
from palimpsest.edits import Erasure
from palimpsest.types import Model


def gram(model: Model) -> Tensor:
    """G, "d d", in float64."""
    return torch.stack([p.detach().double().T @ p.detach().double() for p in edits.parameters(model, WHERE).values()]).sum(0)


def adversarial(c: Tensor, g: Tensor, m: Tensor, rho: float, regularisation: str, old: Tensor) -> Tensor:
    """Vectors "n d" that are to the edited model what c is to the original.

    Args:
        regularisation: towards zero (Equation 8) or towards `old` (standard).
    """
    said, wanted = m.T @ g @ m, m.T @ g  # sum W^T W and sum W^T W_orig
    identity = torch.eye(len(g), dtype=g.dtype, device=g.device)
    start = rho * old if regularisation == "standard" else 0
    return torch.linalg.solve(rho * identity + said, (start + c @ wanted.T).T).T


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    rounds: int = 3,
    rho: float = 0.1,
    regularisation: Literal["zero", "standard"] = "zero",
    target: str = " ",
    retain: list[str] | None = None,
    lamb: float = 0.1,
    erase_scale: float = 1.0,
    preserve_scale: float = 0.1,
    uce_retain: list[str] | None = None,
    uce_lamb: float = 0.5,
    uce_preserve_scale: float = 1.0,
) -> Erasure:
    """One right matrix: UCE's, times one for each round.

    Args:
        rho: weight of the regularisation.
        target: what the words and the vectors that stand for them become.
        retain: texts to keep in every round; None is the official [" "] once for each word.
        uce_retain, uce_lamb, uce_preserve_scale: of the first edit; None is [""]. Its erase scale is 1.
    """
    wanted = states(model, target)
    kept = [states(model, text) for text in ([" "] * len(concept.words) if retain is None else retain)]
    first = [Edited(*tails(model, word, target), 1.0) for word in concept.words]
    first += [Edited(state, state, uce_preserve_scale) for state in (states(model, text) for text in uce_retain or [""])]
    m, g = matrix(first, uce_lamb), gram(model)
    for _ in range(rounds):
        edited = [Edited(state, state, preserve_scale) for state in kept]
        for word in concept.words:
            c = states(model, word)
            edited.append(Edited(adversarial(c, g, m, rho, regularisation, wanted), wanted, erase_scale))
        m = m @ matrix(edited, lamb)
    return Erasure("matrix", {"right": m.float()}, WHERE)
