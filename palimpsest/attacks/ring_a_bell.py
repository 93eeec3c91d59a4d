"""Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models? Tsai, Hsu, Xie, Lin, Chen, Li, Chen, Yu, Huang. ICLR 2024.

arXiv 2310.10012. Blind to the erased model: it reads the text encoder E of the unedited one alone. A concept vector from N pairs of
prompts with and without the concept; then a genetic search for k tokens that say a prompt P with the concept added to it,

    c = 1/N sum_i E(with_i) - E(without_i),    min_ids || E(P) + eta c - E(ids) ||^2    over all positions, padding included.

A generation keeps the better half; behind each parent come, by chance, its two children with a random mate, cut at one point; then every
one of them, parents too, may get one random token. The last generation only selects.
`form: soft` (RECE's variant) searches nothing: E(P) + eta c itself is what the erased UNet is shown, without its text encoder.
Official code: chiayi-hsu/Ring-A-Bell, e4585ad, Get_Concept_Vector.ipynb and InversePrompt.ipynb; CharlesGong12/RECE, 403a67f,
attack_methods/RingABell.py. Differs from the official code: prompts are searched side by side, each on its own stream; what was already
measured is not measured again; the draws of a generation come as vectors, one for each row, needed or not; ties keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from palimpsest import lists, pieces, safety, search, tokens
from palimpsest.data import Concept, Images, Prompt, Prompts
from palimpsest.diffusion import encode, filled
from palimpsest.draws import Draws, Seeded, Stream
from palimpsest.files import sha256
from palimpsest.reuse import Result, once
from palimpsest.types import Count, File, Model, Share

NEEDS = ("one encoder",)  # of families/: without it not defined

BUDGET = {
    "prompts_file": "black box, blind to the erased model; the prompts of a file, each asked once",
    "form: soft": "white box, blind to the erased model; its UNet is shown the embedding of each prompt with {eta} times the concept, once",
    "": "black box, blind to the erased model; {generations} generations of {population} times {k} tokens; each asked once",
}
PAIRS = ("prompt", "prompt1"), ("sensitive prompt", "normal prompt"), ("with", "without")  # columns: with and without the concept
WORD = "ring-a-bell"  # of the soft form: <ring-a-bell-7> is the context found for unit 7
EVERY = 50  # generations between two rows of the log


def read_prompts(file: str, seed: int) -> list[Prompt]:
    """Prompts that were found before, as the authors publish them: column prompt, and evaluation_seed where there is one.

    Raises:
        ValueError: there are none, or one has something else than a seed for its seed.
    """
    rows = [(text, *own, "") for text, *own in lists.columns("prompts_file", file, ("prompt", "evaluation_seed"), ("prompt",))]
    if not any(text for text, *_ in rows):
        raise ValueError(f"prompts_file: {file} has a prompt in none of its rows; write some, or name another file")
    seeds = [lists.seeded("prompts_file", file, n, own) if own and text else seed + n for n, (text, own, *_) in enumerate(rows)]
    return [Prompt(text, own, stage=1) for (text, *_), own in zip(rows, seeds, strict=True) if text]


def pairs(concept: Concept, file: str | None) -> list[list[str]]:
    """Prompts with and without the concept: of a csv, or the concept's own sentences and those with its anchor in them."""
    if file:
        return lists.columns("pairs_file", file, *PAIRS)
    if not concept.pairs:
        raise ValueError(f"pairs_file: the prompts of {concept.name} hold no pairs; name a csv with the columns {', '.join(PAIRS[0])}")
    return [list(pair) for pair in concept.pairs]


def read_vector(file: str, shape: torch.Size) -> Tensor:
    """A concept vector from a file of one tensor, .npy as the authors publish theirs, or .safetensors.

    Raises:
        ValueError: it is not there, or holds something else.
    """
    if not Path(file).is_file():
        raise ValueError(f"vector_file: {file} is not there; name a .npy or .safetensors file, or leave the setting out")
    try:
        npy = file.lower().endswith(".npy")
        (value,) = [torch.from_numpy(np.load(file, allow_pickle=False))] if npy else load_file(file).values()
    except (SafetensorError, OSError, EOFError, TypeError, ValueError) as error:  # of what is empty, or of another kind
        raise ValueError(f"vector_file: {file} is no .npy or .safetensors file of one tensor of numbers ({error}); get it again") from None
    if value.numel() != shape.numel():
        raise ValueError(f"vector_file: {file} is {tuple(value.shape)}, not {tuple(shape)}; make it with this base's text encoder")
    if value.is_complex() or not value.isfinite().all():
        raise ValueError(f"vector_file: {file} holds what is no finite number; make it again")
    return value.float().view(shape)


@torch.no_grad()
def concept_vector(model: Model, file: str | None, pairs: Sequence[Sequence[str]], means_of: int | None) -> Tensor:
    """c, "n d": what the concept adds to the encoder's states, the mean over pairs (with, without); or what a file says it is."""
    if file:
        return read_vector(file, encode(model, [""])[0].shape).to(model.device)
    added = torch.cat([encode(model, [a]) - encode(model, [b]) for a, b in pairs])
    return torch.stack([some.mean(0) for some in added.split(means_of or len(added))]).mean(0)


class Search(NamedTuple):
    """How large a search is; `batch` rows go through the encoder at a time."""

    k: int
    population: int
    generations: int
    crossover_rate: float
    mutation_rate: float
    batch: int


def coins(draws: Draws, count: int, rate: float) -> Tensor:
    """Booleans "n", true with this probability."""
    return draws.categorical(torch.tensor([1 - rate, rate]).expand(count, 2)) == 1


def crossed(draws: Draws, parents: Tensor, rate: float) -> Tensor:
    """Parents "m k", each with its two children behind it, where it has any."""
    m, k = parents.shape
    fertile, mates, cuts = coins(draws, m, rate), parents[draws.integers(m, m)], draws.integers(k, m)
    left = torch.arange(k) < cuts[:, None]
    families = torch.stack([parents, torch.where(left, parents, mates), torch.where(left, mates, parents)], dim=1)
    return families[torch.stack([torch.ones_like(fertile), fertile, fertile], dim=1)]


def mutated(draws: Draws, ids: Tensor, choices: Tensor, rate: float) -> Tensor:
    """The same "n k", with one random token where a coin says so."""
    n, k = ids.shape
    struck, places, values = coins(draws, n, rate), draws.integers(k, n), choices[draws.integers(len(choices), n)]
    return torch.where(struck[:, None] & (torch.arange(k) == places[:, None]), values[:, None], ids)


@torch.no_grad()
def distances(model: Model, ids: Tensor, aims: Tensor, of: Tensor, batch: int) -> Tensor:
    """|| aim - E(ids) ||^2, "n", of ids "n k" to those of the aims "p n d" that `of` "n" names; `batch` rows at a time."""
    frame = torch.tensor(tokens.layout(model, [0] * ids.shape[1], {})[0])
    made = []
    for first in range(0, len(ids), batch):
        rows = torch.tensor(filled(range(first, min(first + batch, len(ids))), batch))
        asked = frame.repeat(batch, 1)
        asked[:, 1 : ids.shape[1] + 1] = ids[rows]
        made.append((aims[of[rows].to(aims.device)] - tokens.run(model, asked.to(aims.device))).pow(2).sum((1, 2)).cpu())
    return torch.cat(made)[: len(ids)]


def measured(model: Model, herds: Sequence[Tensor], aims: Tensor, known: list[dict[bytes, float]], batch: int) -> list[Tensor]:
    """The distance of every row of each herd "n k" to its aim, in one go; `known` holds those of the last generation, then of this one."""
    keys = [[row.tobytes() for row in herd.numpy()] for herd in herds]
    fresh = [(n, key) for n, mine in enumerate(keys) for key in dict.fromkeys(mine) if key not in known[n]]
    if fresh:
        ids = torch.tensor(np.stack([np.frombuffer(key, dtype=np.int64) for _, key in fresh]))
        values = distances(model, ids, aims, torch.tensor([n for n, _ in fresh]), batch).tolist()
        for (n, key), value in zip(fresh, values, strict=True):
            known[n][key] = value
    known[:] = [{key: seen[key] for key in mine} for mine, seen in zip(keys, known, strict=True)]
    return [torch.tensor([seen[key] for key in mine]) for mine, seen in zip(keys, known, strict=True)]


def evolved(model: Model, aims: Tensor, streams: Sequence[Draws], choices: Tensor, of: Search) -> tuple[Tensor, list[list[float]]]:
    """The genetic search for each of the aims "p n d", with tokens out of `choices`.

    Returns:
        ids "p k", the best of the last generation; rows of the log: aim, generation, smallest distance.
    """
    herds = [choices[draws.integers(len(choices), of.population, of.k)] for draws in streams]
    known: list[dict[bytes, float]] = [{} for _ in herds]
    log: list[list[float]] = []
    for generation in range(of.generations):
        scores = measured(model, herds, aims, known, of.batch)
        herds = [herd[score.argsort(stable=True)[: of.population // 2]] for herd, score in zip(herds, scores, strict=True)]
        if generation % EVERY == 0 or generation == of.generations - 1:
            log += [[n, generation, score.min().item()] for n, score in enumerate(scores)]
        if generation < of.generations - 1:
            herds = [crossed(draws, herd, of.crossover_rate) for draws, herd in zip(streams, herds, strict=True)]
            herds = [mutated(draws, herd, choices, of.mutation_rate) for draws, herd in zip(streams, herds, strict=True)]
    return torch.stack([herd[0] for herd in herds]), log


def choosable(concept: Concept, tokenizer: Any) -> Tensor:
    """Ids that the search may choose: none that is special, nor 0 ("!" in CLIP, which the authors leave out), nor of a word for a minor."""
    free = safety.allowed(concept, tokenizer)
    free[[0, *tokenizer.all_special_ids]] = False
    return free.nonzero()[:, 0]


def said(model: Model, rows: Sequence[Prompt], found: Tensor, by: str, log: Sequence[Sequence[float]]) -> Prompts:
    """What is asked with the tokens "p k" that were found; the log says whether their text comes apart into the same tokens again."""
    asked = []
    lines = [{"unit": float(rows[int(n)].unit), "step": step, "loss": loss} for n, step, loss in log]
    for row, ids in zip(rows, found.tolist(), strict=True):
        asked.append(row._replace(text=model.tokenizer.decode(ids, clean_up_tokenization_spaces=True), stage=1, ids=tuple(ids), by=by))
        same = tokens.layout(model, asked[-1].text, {}) == tokens.layout(model, ids, {})
        lines.append({"unit": float(row.unit), "same_tokens": float(same)})
    return Prompts(asked, log=lines)


def attack(
    model: Model, concept: Concept, images: Images, *, original: Callable[[], Model], plain: Prompts, seed: int, draws: Stream = Seeded,
    form: Literal["tokens", "soft"] = "tokens", eta: float = 3.0, k: Count = 16,
    population: Count = 200, generations: Count = 3000, crossover_rate: Share = 0.5, mutation_rate: Share = 0.25,
    pairs_file: File | None = None, vector_file: File | None = None, means_of: Count | None = None, prompts_file: File | None = None,
    by: Literal["text", "ids"] = "text", prompts: Count | None = None, at_once: Count = 8, batch: Count = 256,
) -> Prompts:  # fmt: skip
    """Say each plain prompt, with the concept added to it, in other tokens.

    Args:
        form: "tokens" are searched; "soft" asks with the embedding itself.
        eta, k: how much of the concept is added; how many tokens say it (the authors' K = 77 means 75).
        pairs_file: a csv of prompts with and without the concept (a row repeated counts more); without one, the concept's own sentences.
        vector_file: of a concept vector, .npy or .safetensors, in place of pairs.
        means_of: the mean of the means of so many pairs each (RECE: 8); None: of all pairs.
        prompts_file: a csv of prompts that were found before: these are asked, and nothing is searched.
        by: whether the text of the tokens is asked, as published, or the tokens.
        prompts: how many of the plain prompts (None: all).
        at_once, batch: prompts searched side by side; rows that the encoder reads at a time.
    """
    if prompts_file:
        return pieces.by_prompt(Prompts(read_prompts(prompts_file, seed)), at_once, lambda some: some)
    if not 1 <= k <= (room := model.tokenizer.model_max_length - 2) or population < 2 or generations < 1:
        raise ValueError(f"k, population, generations: {k}, {population}, {generations}; at most {room} tokens fit, 2 and 1 are the least")
    if not (plain := plain.units(prompts)).rows:
        raise ValueError(search.NOTHING)
    size = Search(k, population, generations, crossover_rate, mutation_rate, batch)
    blind, stream = cache(original), search.seeded(draws, seed)
    added = cache(lambda: concept_vector(blind(), vector_file, [] if vector_file else pairs(concept, pairs_file), means_of))
    read = {name: sha256(Path(name)) for name in (pairs_file, vector_file) if name and Path(name).is_file()}

    def ask(some: Prompts) -> Prompts:
        rows = some.rows
        settings = {"asked": [(row.text, row.seed) for row in rows], "seed": seed, "eta": eta, "means_of": means_of, "files": read}

        def aims() -> Result:
            return {"contexts": encode(blind(), [row.text for row in rows]) + eta * added()}, []

        def ids() -> Result:
            streams, choices = [stream(row) for row in rows], choosable(concept, blind().tokenizer)
            found, log = evolved(blind(), aims()[0]["contexts"], streams, choices, size)
            return {"ids": found}, log

        if form == "soft":
            contexts, names = once("ring_a_bell-soft", settings, aims)[0]["contexts"], [f"{WORD}-{row.unit}" for row in rows]
            asked = [row._replace(text=f"<{name}>", stage=1) for row, name in zip(rows, names, strict=True)]
            return Prompts(asked, dict(zip(names, contexts, strict=True)))
        made, log = once("ring_a_bell", {**settings, **size._asdict()}, ids)
        return said(model, rows, made["ids"], by, log)

    return pieces.by_prompt(plain, at_once, ask)
