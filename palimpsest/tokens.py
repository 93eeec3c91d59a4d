"""Text encoders on vectors: learned words inside texts, and textual inversion.

A learned word is a name with one or more vectors ("k d"); it stands in a text as <name> and takes k places in the context. Where a model
has several encoders, a vector holds its part for each of them, side by side. The encoder is the model's own; only what its token
embedding returns is replaced (a forward hook, which every version of transformers allows).
A word of as many vectors as the context has places cannot stand in a text: asked alone, as <name>, it is the context itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest import families
from palimpsest.optimise import Log, descend
from palimpsest.types import Model, Reader, Text

Words = dict[str, Tensor]  # name -> "k d"
Asked = str | Sequence[int]  # a text, or the ids of its tokens without those of begin, end and padding
PLACE = re.compile(r"(<[a-z0-9-]+>)")


def layout(of: Model | Reader, text: Asked, words: Words) -> tuple[list[int], list[tuple[int, str]]]:
    """Token ids of a text at full length, and where each learned word begins.

    The places of a learned word hold the begin token, since CLIP pools where the first end token is; T5 has none.
    """
    tokenizer = of.tokenizer
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    hold = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    places: list[tuple[int, str]] = []
    if not isinstance(text, str):
        ids += text
    for piece in PLACE.split(text) if isinstance(text, str) else ():
        if piece[1:-1] in words and PLACE.fullmatch(piece):
            places.append((len(ids), piece[1:-1]))
            ids += [hold] * len(words[piece[1:-1]])
        elif piece.strip():
            ids += tokenizer(piece, add_special_tokens=False).input_ids
    room = tokenizer.model_max_length - 1
    for where, name in places:
        if where + len(words[name]) > room:
            raise ValueError(f"the learned word <{name}> does not fit into {room + 1} tokens: {text!r}")
    ids = [*ids[:room], tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids)), places


def output(of: Model | Reader, ids: Tensor, embeddings: Tensor | None = None, **asked: Any) -> Any:
    """What the (first) encoder makes of token ids "b n", or of the embeddings "b n d" that stand for them; `asked` goes to it."""
    encoder = of.text_encoder
    if embeddings is None:
        return encoder(ids, **asked)
    table = encoder.get_input_embeddings().weight
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Embedding) and layer.weight is table]  # T5 has two that share it
    hooks = [layer.register_forward_hook(lambda *_: embeddings) for layer in layers]
    try:
        return encoder(ids, **asked)
    finally:
        for hook in hooks:
            hook.remove()


def run(of: Model | Reader, ids: Tensor, embeddings: Tensor | None = None) -> Tensor:
    """The last hidden state "b n d" of the (first) encoder on token ids "b n", or on the embeddings "b n d" that stand for them."""
    return output(of, ids, embeddings).last_hidden_state


def placed(of: Model | Reader, texts: Sequence[Asked], words: Words) -> tuple[Tensor, Tensor | None]:
    """Token ids "b n" of texts for the (first) encoder, and the embeddings "b n d" that stand for them; None where no word is in a text."""
    rows = [layout(of, text, words) for text in texts]
    ids = torch.tensor([ids for ids, _ in rows], device=of.text_encoder.device)
    if not any(places for _, places in rows):
        return ids, None
    embeddings = of.text_encoder.get_input_embeddings()(ids)
    line = embeddings.flatten(0, 1)
    index: list[int] = []
    vectors: list[Tensor] = []
    for row, (_, places) in enumerate(rows):
        for where, name in places:
            index += range(row * ids.shape[1] + where, row * ids.shape[1] + where + len(words[name]))
            vectors.append(words[name].to(line))
    line = line.index_copy(0, torch.tensor(index, device=line.device), torch.cat(vectors))
    return ids, line.view_as(embeddings)


def widths(model: Model) -> list[int]:
    """Of the parts that a learned word's vector holds, one for each encoder."""
    return [reader.text_encoder.get_input_embeddings().embedding_dim for reader in model.readers]


def shares(model: Model, words: Words) -> list[Words]:
    """Of each learned word the part that is for each encoder.

    Raises:
        ValueError: a word was learned on a model of other encoders.
    """
    wide = widths(model)
    for name, vectors in words.items():
        if len(vectors) < model.tokenizer.model_max_length and vectors.shape[1] != sum(wide):
            raise ValueError(
                f"the learned word <{name}> has vectors of {vectors.shape[1]} numbers, the encoders of this model take {sum(wide)}; "
                "start it with tokens.vector"
            )
    short = {name: vectors for name, vectors in words.items() if len(vectors) < model.tokenizer.model_max_length}
    return [{name: vectors.split(wide, dim=1)[n] for name, vectors in short.items()} for n in range(len(wide))]


def is_context(model: Model, text: Asked, words: Words) -> bool:
    """Whether a text is the name of a whole context "n d", and nothing else."""
    return isinstance(text, str) and len(words.get(text[1:-1], ())) >= model.tokenizer.model_max_length and bool(PLACE.fullmatch(text))


def encode(model: Model, texts: Sequence[Asked], words: Words) -> Text:
    """Texts with learned words as the network takes them, "b n d", differentiable in the words' vectors."""
    if contexts := {n: words[str(text)[1:-1]] for n, text in enumerate(texts) if is_context(model, text, words)}:
        states = encode(model, ["" if n in contexts else text for n, text in enumerate(texts)], words)
        return torch.stack([contexts.get(n, row).to(row) for n, row in enumerate(states)])
    return families.of(model).encode(model, texts, words)


def vector(model: Model, word: str) -> Tensor:
    """The embedding of a single token, "1 d", with its part for each encoder."""
    rows = []
    for reader in model.readers:
        ids = reader.tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens; an inversion starts from a word of one (see the concept's `initialiser`)")
        rows.append(reader.text_encoder.get_input_embeddings().weight[ids].detach())
    return torch.cat(rows, dim=1)


def invert(model: Model, loss: Callable[[Words], Tensor], words: Words, **settings: object) -> tuple[Words, Log]:
    """Textual inversion (Gal et al. 2022): learned words that minimise a loss, all weights frozen. `settings` go to `descend`.

    Only the new rows are optimised: with an elementwise optimiser that equals training the whole table and restoring the others.
    """
    vectors = {name: value.detach().clone().to(model.device).requires_grad_() for name, value in words.items()}
    log = descend(lambda _: loss(vectors), list(vectors.values()), **settings)  # type: ignore[arg-type]
    return {name: value.detach() for name, value in vectors.items()}, log
