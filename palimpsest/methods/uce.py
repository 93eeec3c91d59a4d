"""Unified Concept Editing in Diffusion Models. Gandikota, Orgad, Belinkov, Materzynska, Bau. WACV 2024. arXiv 2308.14761.

Equation 7 gives each key and value projection W of cross-attention in closed form. With targets v* = W c* every term has W on the
left, so all of them are multiplied by one shared matrix,

    W' = W A B^-1,  A = l I + s_e sum c* c^T + s_p sum c_p c_p^T,  B = l I + s_e sum c c^T + s_p sum c_p c_p^T.

Official code: rohitgandikota/unified-concept-editing, `train-scripts/train_erase.py` @35e91e2 (`form: paper`) and
`trainscripts/uce_sd_erase.py` @28c81ed (`form: 2025`).
Differs from the official code: solved once in float64 and not once a layer in float32. All texts have one target. `retain` is the whole
list: the code of 2023 adds "" to every list, and to that of a style, where none is given, the 1,734 artists of a table. Its technique
`tensor` and the longer forms of each text (`add_prompts`, `expand_prompts`) are not offered.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from palimpsest.closed_form import WHERE, Edited, last_word, matrix, states, tails
from palimpsest.data import Concept, Images
from palimpsest.edits import Erasure
from palimpsest.types import Model, NotNegative

NEEDS = ("keys of the text",)  # of families/: without it not defined


def pair(model: Model, text: str, target: str, form: str) -> tuple[Tensor, Tensor]:
    """Vectors of the text and of what takes their place, "n d" each.

    paper: from the last word to the end of the context, both aligned at their last word. 2025: the last word alone.
    """
    if form == "paper":
        return tails(model, text, target)
    return states(model, text)[[last_word(model, text)]], states(model, target)[[last_word(model, target)]]


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    form: Literal["paper", "2025"] = "paper",
    texts: Literal["words", "train"] = "words",
    target: str | None = None,
    retain: list[str] | None = None,
    lamb: NotNegative = 0.5,
    erase_scale: NotNegative = 1.0,
    preserve_scale: NotNegative | None = None,
) -> Erasure:
    """One right matrix for all cross-attention keys and values.

    Args:
        texts: what is edited: the concept's words, or its texts to train on, all together.
        target: what the words become; None is the official default (" " for paper, "art" for a style of 2025, else "").
        retain: texts to keep; None is the official default ([""] for paper, none for 2025).
        lamb: l; 0 only where the texts have as many vectors as these have components.
        preserve_scale: s_p; None is the official default (max(0.1, 1/len(retain)) for paper, 1 for 2025).

    Raises:
        ValueError: the concept has no such texts, or with this l there is no one solution.
    """
    paper = form == "paper"
    if target is None:
        target = " " if paper else ("art" if concept.kind == "style" else "")
    retain = ([""] if paper else []) if retain is None else retain
    if preserve_scale is None:
        preserve_scale = max(0.1, 1 / max(1, len(retain))) if paper else 1.0

    edited = [Edited(*pair(model, text, target, form), erase_scale) for text in concept.erased(texts, "uce")]
    for text in retain:
        kept = states(model, text) if paper else states(model, text)[[last_word(model, text)]]
        edited.append(Edited(kept, kept, preserve_scale))
    return Erasure("matrix", {"right": matrix(edited, lamb, "uce: lamb").float()}, WHERE)
