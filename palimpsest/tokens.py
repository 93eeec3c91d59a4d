"""The text encoder on vectors: learned words inside texts, and textual inversion.

A learned word is a name with one or more vectors ("k d"); it stands in a text as <name> and takes k places in the context. The
encoder is CLIP's own; only what its token embedding returns is replaced (a forward hook, which every version of transformers allows).
A word of as many vectors as the context has places cannot stand in a text: asked alone, as <name>, it is the context itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from palimpsest.optimise import Log, descend
from palimpsest.types import Model

Words = dict[str, Tensor]  # name -> "k d"
Asked = str | Sequence[int]  # a text, or the ids of its tokens without those of begin, end and padding
PLACE = re.compile(r"(<[a-z0-9-]+>)")


def layout(model: Model, text: Asked, words: Words) -> tuple[list[int], list[tuple[int, str]]]:
    """Token ids of a text at full length, and where each learned word begins. The places of a learned word hold the end token."""
    tokenizer = model.tokenizer
    ids: list[int] = [tokenizer.bos_token_id]
    places: list[tuple[int, str]] = []
    if not isinstance(text, str):
        ids += text
    for piece in PLACE.split(text) if isinstance(text, str) else ():
        if piece[1:-1] in words and PLACE.fullmatch(piece):
            places.append((len(ids), piece[1:-1]))
            ids += [tokenizer.eos_token_id] * len(words[piece[1:-1]])
        elif piece.strip():
            ids += tokenizer(piece, add_special_tokens=False).input_ids
    room = tokenizer.model_max_length - 1
    for where, name in places:
        if where + len(words[name]) > room:
            raise ValueError(f"the learned word <{name}> does not fit into {room + 1} tokens: {text!r}")
    ids = [*ids[:room], tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids)), places


def run(model: Model, ids: Tensor, embeddings: Tensor | None = None) -> Tensor:
    """The encoder's last hidden state "b n d" on token ids "b n", or on the embeddings "b n d" that stand for them."""
    if embeddings is None:
        return model.text_encoder(ids).last_hidden_state
    table = model.text_encoder.get_input_embeddings()
    hook = table.register_forward_hook(lambda *_: embeddings)
    try:
        return model.text_encoder(ids).last_hidden_state
    finally:
        hook.remove()


def is_context(model: Model, text: Asked, words: Words) -> bool:
    """Whether a text is the name of a whole context "n d", and nothing else."""
    return isinstance(text, str) and len(words.get(text[1:-1], ())) == model.tokenizer.model_max_length and bool(PLACE.fullmatch(text))


def encode(model: Model, texts: Sequence[Asked], words: Words) -> Tensor:
    """Context "b n d" of texts with learned words, differentiable in the words' vectors."""
    if contexts := {n: words[str(text)[1:-1]] for n, text in enumerate(texts) if is_context(model, text, words)}:
        states = encode(model, ["" if n in contexts else text for n, text in enumerate(texts)], words)
        return torch.stack([contexts.get(n, row).to(row) for n, row in enumerate(states)])
    rows = [layout(model, text, words) for text in texts]
    ids = torch.tensor([ids for ids, _ in rows], device=model.device)
    if not any(places for _, places in rows):
        return run(model, ids)
    embeddings = model.text_encoder.get_input_embeddings()(ids)
    line = embeddings.flatten(0, 1)
    index: list[int] = []
    vectors: list[Tensor] = []
    for row, (_, places) in enumerate(rows):
        for where, name in places:
            index += range(row * ids.shape[1] + where, row * ids.shape[1] + where + len(words[name]))
            vectors.append(words[name].to(line))
    line = line.index_copy(0, torch.tensor(index, device=line.device), torch.cat(vectors))
    return run(model, ids, line.view_as(embeddings))


def vector(model: Model, word: str) -> Tensor:
    """The embedding of a single token, "1 d"."""
    ids = model.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens; an inversion starts from a word of one token (see the concept's `initialiser`)")
    return model.text_encoder.get_input_embeddings().weight[ids].detach().clone()


def invert(model: Model, loss: Callable[[Words], Tensor], words: Words, **settings: object) -> tuple[Words, Log]:
    """Textual inversion (Gal et al. 2022): learned words that minimise a loss, all weights frozen. `settings` go to `descend`.

    Only the new rows are optimised: with an elementwise optimiser that equals training the whole table and restoring the others.
    """
    vectors = {name: value.detach().clone().to(model.device).requires_grad_() for name, value in words.items()}
    log = descend(lambda _: loss(vectors), list(vectors.values()), **settings)  # type: ignore[arg-type]
    return {name: value.detach() for name, value in vectors.items()}, log
