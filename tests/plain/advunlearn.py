"""AdvUnlearn step by step: copies of both networks for the originals, x_t sampled when an attack or a step of training asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palimpsest.data import Concept, Images
from palimpsest.methods.advunlearn import WHERE
from palimpsest.types import Model
from plain import copied, ddim, encode, known, levels, noise, said, trainable, values

DEFAULTS: dict[str, Any] = {
    "train": "text_encoder", "texts": "words", "eta": 1.0, "steps": 1000, "lr": 1e-5, "warmup": 200, "attack_steps": 30,
    "attack_lr": 1e-3, "attack_init": "random", "gamma": 0.3, "retain_batch": 5, "retain_form": "reg", "sampler_steps": 50,
    "guidance": 3.0, "latent_alignment": "exact", "attack_text": "whole",
}  # fmt: skip


class Turn(NamedTuple):
    """What was drawn for one step: the attacks' stops and labels, then the step's own."""

    erases: bool
    attacks: int
    word: str
    kept: list[str]
    until: list[int]
    t: list[int]
    start: Tensor
    seeds: list[int]


def with_word(model: Model, text: str, soft: Tensor, rule: str) -> Tensor:
    """The context of a text behind a soft word "k d": start token, word, text; through CLIP's own forward.

    By `rule` the whole text, or without the `size` tokens behind as many as it has words.
    """
    size, table, length = len(soft), model.text_encoder.get_input_embeddings(), model.tokenizer.model_max_length
    said_ids = model.tokenizer(text, add_special_tokens=False).input_ids
    if rule == "words":
        first = len(text.split())
        del said_ids[first : first + size]
    bos, eos = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    ids = ([bos] + [eos] * size + said_ids)[: length - 1]
    ids = torch.tensor([[*ids, eos] + [model.tokenizer.pad_token_id] * (length - 1 - len(ids))])
    looked = torch.nn.functional.embedding(ids, table.weight)
    looked = torch.cat([looked[:, :1], soft[None], looked[:, 1 + size :]], dim=1)
    hook = table.register_forward_hook(lambda *_: looked)
    try:
        return model.text_encoder(ids).last_hidden_state
    finally:
        hook.remove()


def stops(n: int, count: int, alignment: str, draws: torch.Generator) -> tuple[list[int], list[int]]:
    """Steps before which x_t stops, and the levels that it is said to have."""
    stop, spacing = torch.randint(n, (count,), generator=draws).tolist(), 1000 // n
    if alignment == "exact":
        return stop, [levels(n)[k] for k in stop]
    within = torch.rand(count, generator=draws).tolist()  # t uniform in the stop-th part of the levels; x_t two steps cleaner
    return [min(n + 1 - k, n) for k in stop], [spacing * k + int(u * spacing) for k, u in zip(stop, within, strict=True)]


def turns(model: Model, concept: Concept, s: dict[str, Any], seed: int) -> Iterator[Turn]:
    """Draws in the order that the method promises: word, texts to keep, stops, start of the attack, seeds of the rows."""
    draws, apart = torch.Generator().manual_seed(seed), s["retain_form"] == "iter"
    unseen: list[int] = []
    words, retain = concept.words if s["texts"] == "words" else concept.texts["train"], concept.texts["retain"]
    for step in range(s["steps"] * (1 + apart)):
        keeps, erases = not apart or step % 2 == 1, not apart or step % 2 == 0
        attacks = s["attack_steps"] if erases and step // (1 + apart) >= s["warmup"] else 0
        word, kept = words[int(torch.randint(len(words), (1,), generator=draws))], []
        if keeps and s["retain_batch"]:
            if len(unseen) < s["retain_batch"]:
                unseen = torch.randperm(len(retain), generator=draws).tolist()
            kept, unseen = [retain[n] for n in unseen[: s["retain_batch"]]], unseen[s["retain_batch"] :]
        until, t = stops(s["sampler_steps"], attacks + 1, s["latent_alignment"], draws)
        start = torch.randint(len(model.tokenizer), (1,), generator=draws)
        seeds = torch.randint(2**63 - 1, (attacks + erases + len(kept),), generator=draws).tolist()
        yield Turn(erases, attacks, word, kept, until, t, start, seeds)


def drawn(model: Model, unet: Any, seeds: list[int], texts: list[str], until: int, s: dict[str, Any]) -> Tensor:
    """x_t for each of the texts, in one batch."""
    x = torch.cat([noise(model, 1, torch.Generator().manual_seed(seed)) for seed in seeds])
    visited = levels(s["sampler_steps"])[s["latent_alignment"] == "legacy" : until + 1]
    return ddim(model, unet, x, encode(model, texts), encode(model, [""]), visited, s["guidance"])


@torch.no_grad()
def original(model: Model, x: Tensor, t: int, texts: list[str]) -> Tensor:
    return said(model.unet, x, t, encode(model, texts))


def attacked(model: Model, student: Model, turn: Turn, begin: Tensor, s: dict[str, Any]) -> Tensor:
    """The soft word: gradients are never set to zero, and the word handed back has not seen the last update."""
    adversary = soft = begin.detach().clone().requires_grad_()
    inner, total = torch.optim.Adam([adversary], lr=s["attack_lr"]), torch.zeros_like(adversary)
    for k in range(turn.attacks):
        t = turn.t[k]
        x = drawn(model, student.unet, [turn.seeds[k]], [turn.word], turn.until[k], s)
        guess = said(student.unet, x, t, with_word(student, turn.word, adversary, s["attack_text"]))
        loss = (guess - original(model, x, t, [turn.word])).pow(2).mean()
        total = total + torch.autograd.grad(loss, adversary)[0]
        soft = adversary.detach().clone()
        adversary.grad = total
        inner.step()
    return soft


def objective(model: Model, student: Model, turn: Turn, soft: Tensor | None, s: dict[str, Any]) -> Tensor:
    """The loss of a step: the erased row, then the texts to keep in one batch."""
    t, until, total = turn.t[-1], turn.until[-1], torch.zeros(())
    seeds = turn.seeds[turn.attacks :]
    if turn.erases:
        x = drawn(model, student.unet, seeds[:1], [turn.word], until, s)
        e_c, e_0 = original(model, x, t, [turn.word]), original(model, x, t, [""])
        shown = encode(student, [turn.word]) if soft is None else with_word(student, turn.word, soft, s["attack_text"])
        total = total + (said(student.unet, x, t, shown) - (e_0 - s["eta"] * (e_c - e_0))).pow(2).mean()
    if turn.kept:
        x = drawn(model, student.unet, seeds[turn.erases :], turn.kept, until, s)
        guess, known = said(student.unet, x, t, encode(student, turn.kept)), original(model, x, t, turn.kept)
        total = total + (s["gamma"] if turn.erases else 1.0) * (guess - known).pow(2).mean()
    return total


def erase(model: Model, concept: Concept, images: Images, *, seed: int, **settings: Any) -> dict[str, Tensor]:
    """The whole method; `settings` as in `DEFAULTS`."""
    s, student, latest = known(DEFAULTS, settings), copied(model), None
    weights = trainable(student, WHERE[s["train"]])
    outer, table = torch.optim.Adam(weights.values(), lr=s["lr"]), student.text_encoder.get_input_embeddings().weight
    for turn in turns(model, concept, s, seed):
        soft = None
        if turn.attacks:
            goes_on = s["attack_init"] == "latest" and latest is not None
            soft = latest = attacked(model, student, turn, latest if goes_on else table[turn.start], s)  # type: ignore[arg-type]
        outer.zero_grad()
        objective(model, student, turn, soft, s).backward()
        outer.step()
    return values(weights)
