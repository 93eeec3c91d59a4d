"""Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models (RECE). Gong, Chen, Wei, Chen, Jiang. ECCV 2024.
arXiv 2407.12383.

UCE, and then round after round: find in closed form the vectors that still mean the concept to the edited keys and values (Equation 8),

    C_adv = C K^T,  K = (rho I + sum_l W_l^T W_l)^-1 sum_l W_l^T W_l^orig,

and edit these away as UCE does. Since every edit is one shared right matrix, W_l = W_l^orig M, and with G = sum_l W_l^orig^T W_l^orig

    K = (rho I + M^T G M)^-1 M^T G:

the whole run stays in matrices of the text's width. Official code: CharlesGong12/RECE, `train.py`, `train_object.py` and
`train_artists.py` @403a67f.
Differs from the official code: all rounds are made, where `train.py` saves one if NudeNet or Q16 finds less on validation prompts than ever
before and `train_object.py` stops once ResNet-50 sees no object. Of a style `train_artists.py` also keeps the 1,734 artists of a table, in
UCE's edit and in its own, which `uce_retain` and `retain` may name. The third regularisation (surrogate) is not offered: by default it
inverts matrices that UCE makes all but singular. The first edit is UCE's paper form and not a file that was downloaded. Solved in float64,
all layers at once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from palimpsest import edits
from palimpsest.closed_form import WHERE, Edited, matrix, states, tails
from palimpsest.data import Concept, Images
from palimpsest.edits import Erasure
from palimpsest.types import Model, NotNegative

NEEDS = ("keys of the text",)  # of families/: without it not defined


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
    rho: NotNegative = 0.1,
    regularisation: Literal["zero", "standard"] = "zero",
    target: str = " ",
    retain: list[str] | None = None,
    lamb: NotNegative = 0.1,
    erase_scale: NotNegative = 1.0,
    preserve_scale: NotNegative = 0.1,
    uce_retain: list[str] | None = None,
    uce_lamb: NotNegative = 0.5,
    uce_preserve_scale: NotNegative = 1.0,
) -> Erasure:
    """One right matrix: UCE's, times one for each round.

    Args:
        rho: weight of the regularisation.
        target: what the words and the vectors that stand for them become.
        retain: texts to keep in every round; None is the official default (" " once for each word, of objects and styles "" once).
        uce_retain, uce_lamb, uce_preserve_scale: of the first edit; None is [""], [] keeps nothing. Its erase scale is 1.

    Raises:
        ValueError: with these l there is no one solution.
    """
    wanted = states(model, target)
    if retain is None:
        retain = [" "] * len(concept.words) if concept.kind == "inappropriate" else [""]
    kept = [states(model, text) for text in retain]
    first = [Edited(*tails(model, word, target), 1.0) for word in concept.words]
    spared = [""] if uce_retain is None else uce_retain
    first += [Edited(state, state, uce_preserve_scale) for state in (states(model, text) for text in spared)]
    m, g = matrix(first, uce_lamb, "rece: uce_lamb"), gram(model)
    for _ in range(rounds):
        edited = [Edited(state, state, preserve_scale) for state in kept]
        for word in concept.words:
            c = states(model, word)
            edited.append(Edited(adversarial(c, g, m, rho, regularisation, wanted), wanted, erase_scale))
        m = m @ matrix(edited, lamb, "rece: lamb")
    return Erasure("matrix", {"right": m.float()}, WHERE)
