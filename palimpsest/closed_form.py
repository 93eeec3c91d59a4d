"""Closed-form edits of cross-attention's keys and values: one matrix that multiplies all of them from the right.

With targets v* = W c* every term of the linear system of UCE has W on its left, so all layers share

    W' = W A B^-1,  A = l I + sum_i s_i c*_i c_i^T,  B = l I + sum_i s_i c_i c_i^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.diffusion import encode
from palimpsest.types import Model

WHERE = "unet.*attn2.to_[kv].weight"


class Edited(NamedTuple):
    """Vectors of a text, what takes their place ("n d" each, row by row; the same to keep them), and how much that counts."""

    old: Tensor
    new: Tensor
    scale: float


def matrix(edited: Sequence[Edited], lamb: float, setting: str) -> Tensor:
    """A B^-1, "d d", in float64; `setting` is what a complaint calls l.

    Raises:
        ValueError: with this l there is no one solution.
    """
    vectors, width = sum(len(old) for old, _, scale in edited if scale), edited[0].old.shape[1]
    if lamb < 0 or (lamb == 0 and vectors < width):
        raise ValueError(f"{setting} is {lamb}, with which {vectors} vectors of {width} have no one solution; make it above 0, as 0.5")
    identity = torch.eye(width, dtype=torch.float64, device=edited[0].old.device)
    a = lamb * identity + sum(scale * new.T @ old for old, new, scale in edited)
    b = lamb * identity + sum(scale * old.T @ old for old, _, scale in edited)
    return torch.linalg.solve(b, a.T).T  # B is symmetric


def states(model: Model, text: str) -> Tensor:
    """A text's vectors "n d" in float64."""
    return encode(model, [text])[0].double()


def last_word(model: Model, text: str) -> int:
    """Place of the text's last word token; 0, the start token, for an empty text (as in the official code of UCE)."""
    return len(model.tokenizer(text, truncation=True).input_ids) - 2


def tails(model: Model, text: str, target: str) -> tuple[Tensor, Tensor]:
    """Two texts from their last words to the end of the context, the longer tail trimmed: UCE's pairs of 2023."""
    first, other = last_word(model, text), last_word(model, target)
    length = model.tokenizer.model_max_length - max(first, other)
    return states(model, text)[first : first + length], states(model, target)[other : other + length]
