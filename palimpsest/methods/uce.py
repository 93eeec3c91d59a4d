"""Unified Concept Editing in Diffusion Models. Gandikota, Orgad, Belinkov, Materzynska, Bau. WACV 2024. arXiv 2308.14761.

Equation 7 gives each key and value projection W of cross-attention in closed form. With targets v* = W c* every term has W on the
left, so all of them are multiplied by one shared matrix,

    W' = W A B^-1,  A = l I + s_e sum c* c^T + s_p sum c_p c_p^T,  B = l I + s_e sum c c^T + s_p sum c_p c_p^T.

Official code: rohitgandikota/unified-concept-editing, `train-scripts/train_erase.py` @35e91e2 (`form: paper`) and
`trainscripts/uce_sd_erase.py` @28c81ed (`form: 2025`).
Differs from the official code: solved once in float64 and not once a layer in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from palimpsest.data import Concept, Images
from palimpsest.diffusion import encode
from palimpsest.edits import Erasure
from palimpsest.types import Model

WHERE = "unet.*attn2.to_[kv].weight"


def last_word(model: Model, text: str) -> int:
    """Place of the text's last word token; 0, the start token, for an empty text (as in the official code)."""
    return len(model.tokenizer(text, truncation=True).input_ids) - 2


def pair(model: Model, text: str, target: str, form: str) -> tuple[Tensor, Tensor]:
    """Vectors of the text and of what takes their place, "n d" each.

    paper: from the last word to the end of the context, both aligned at their last word, the longer tail trimmed.
    2025: the last word alone.
    """
    states = encode(model, [text, target]).double()
    first, other = last_word(model, text), last_word(model, target)
    if form == "2025":
        return states[0, first : first + 1], states[1, other : other + 1]
    length = states.shape[1] - max(first, other)
    return states[0, first : first + length], states[1, other : other + length]


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    form: Literal["paper", "2025"] = "paper",
    target: str | None = None,
    retain: list[str] | None = None,
    lamb: float = 0.5,
    erase_scale: float = 1.0,
    preserve_scale: float | None = None,
) -> Erasure:
    """One right matrix for all cross-attention keys and values.

    Args:
        target: what the words become; None is the official default (" " for paper, "art" for a style of 2025, else "").
        retain: texts to keep; None is the official default ([""] for paper, none for 2025).
        preserve_scale: s_p; None is the official default (max(0.1, 1/len(retain)) for paper, 1 for 2025).
    """
    paper = form == "paper"
    if target is None:
        target = " " if paper else ("art" if concept.kind == "style" else "")
    retain = ([""] if paper else []) if retain is None else retain
    if preserve_scale is None:
        preserve_scale = max(0.1, 1 / max(1, len(retain))) if paper else 1.0

    pairs = [(*pair(model, word, target, form), erase_scale) for word in concept.words]
    for text in retain:
        states = encode(model, [text])[0].double()
        kept = states if paper else states[[last_word(model, text)]]
        pairs.append((kept, kept, preserve_scale))
    identity = torch.eye(pairs[0][0].shape[1], dtype=torch.float64, device=model.device)
    a = lamb * identity + sum(scale * new.T @ old for old, new, scale in pairs)
    b = lamb * identity + sum(scale * old.T @ old for old, _, scale in pairs)
    right = torch.linalg.solve(b, a.T).T  # A B^-1; B is symmetric
    return Erasure("matrix", {"right": right.float()}, WHERE)
