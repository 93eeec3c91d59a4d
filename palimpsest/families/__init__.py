"""Families of models: one file each, the folder is the registry. The science sees a `Model` and `predict`; here is what differs.

A file says, as constants that are read without importing it,

    PIPELINE   diffusers' class        NETWORK    what that calls the network
    SAMPLER    its own                 LENGTHS    of texts, by number of the encoder, where the tokenizer's files say another
    EXTRAS     what that class takes   EXPECTS    what its configuration must say
    LACKS      what is not defined on the family, each with its reason

and two functions: `encode(model, texts, words)` makes a Text "b n d" of texts in which learned words may stand, and
`call(model, x, t, context, mask)` asks the network, x "b c h w", t "b", context "b n d"; mask "b n" is False where a shorter text was
filled up, None where none was. A family with a pooled text has it as the last row of a Text, filled up with zeros.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from palimpsest.types import Model, Text

Need = Literal["cross-attention", "keys of the text", "one encoder", "clip words", "noise"]
NEEDS: dict[Need, str] = {  # what a method or an attack may need that not every family has
    "cross-attention": "layers attn2, whose to_k and to_v read nothing but the text",
    "keys of the text": "that these read the text as `encode` gives it, so that an equation for them can be solved",
    "one encoder": "a single text encoder, CLIP's, so that token ids say all that is asked",
    "clip words": "a first tokenizer with CLIP's vocabulary, whose tokens end in </w>",
    "noise": "a network that can say the noise at every level, the first one too",
}


def names() -> list[str]:
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def named(name: str) -> ModuleType:
    return import_module(f"palimpsest.families.{name}")


def of(model: Model) -> ModuleType:
    return named(model.family)


def lacks(model: Model, need: Need) -> str | None:
    """Why something is not defined on a model's family; None where it is."""
    return of(model).LACKS.get(need)


def drawn_by(pipeline: str) -> str:
    """The family of a class of diffusers' pipelines.

    Raises:
        ValueError: there is none.
    """
    known = {named(name).PIPELINE: name for name in names()}
    if pipeline not in known:
        raise ValueError(f"a {pipeline} is of no family that palimpsest knows; it takes {', '.join(known)}")
    return known[pipeline]


def with_pooled(context: Tensor, pooled: Tensor) -> Text:
    """A context "b n d" and behind it the pooled text "b p", p <= d, as one row more."""
    return torch.cat([context, torch.nn.functional.pad(pooled, (0, context.shape[2] - pooled.shape[1]))[:, None]], dim=1)


def apart(text: Text, mask: Tensor | None, width: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """The context, its mask, and the pooled text "b width", which stands in the last row that the mask shows."""
    if mask is None:
        return text[:, :-1], None, text[:, -1, :width]
    rows, last = torch.arange(len(text), device=text.device), mask.sum(1) - 1
    hidden = mask.clone()
    hidden[rows, last] = False
    return text, hidden, text[rows, last, :width]
