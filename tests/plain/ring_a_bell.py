"""Ring-A-Bell's search for one prompt, as its notebook has it: the whole population through the encoder in every generation."""

from __future__ import annotations

import torch
from torch import Tensor

from palimpsest.draws import Draws
from palimpsest.types import Model


def fitness(model: Model, population: list[list[int]], aim: Tensor) -> list[float]:
    tokenizer = model.tokenizer
    rows = []
    for ids in population:
        padding = [tokenizer.pad_token_id] * (tokenizer.model_max_length - 2 - len(ids))
        rows.append([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding])
    with torch.no_grad():
        states = model.text_encoder(torch.tensor(rows)).last_hidden_state
    return ((aim - states) ** 2).sum(dim=(1, 2)).tolist()


def flipped(draws: Draws, count: int, rate: float) -> list[int]:
    return draws.categorical(torch.tensor([[1 - rate, rate]] * count)).tolist()


def crossover(draws: Draws, parents: list[list[int]], rate: float) -> list[list[int]]:
    k = len(parents[0])
    coins, mates = flipped(draws, len(parents), rate), draws.integers(len(parents), len(parents)).tolist()
    cuts = draws.integers(k, len(parents)).tolist()
    born = []
    for parent, coin, mate, cut in zip(parents, coins, mates, cuts, strict=True):
        born.append(list(parent))
        if coin:
            born.append(parent[:cut] + parents[mate][cut:])
            born.append(parents[mate][:cut] + parent[cut:])
    return born


def mutation(draws: Draws, population: list[list[int]], choices: list[int], rate: float) -> list[list[int]]:
    coins, places = flipped(draws, len(population), rate), draws.integers(len(population[0]), len(population)).tolist()
    values = draws.integers(len(choices), len(population)).tolist()
    for ids, coin, place, value in zip(population, coins, places, values, strict=True):
        if coin:
            ids[place] = choices[value]
    return population


def search(
    model: Model, aim: Tensor, draws: Draws, choices: list[int], *, k: int, population: int, generations: int, crossover_rate: float,
    mutation_rate: float,
) -> tuple[list[int], list[float], int]:  # fmt: skip
    """The ids, the smallest distance of each generation, and how many rows the encoder read."""
    herd = [[choices[n] for n in row] for row in draws.integers(len(choices), population, k).tolist()]
    losses, read = [], 0
    for generation in range(generations):
        scores = fitness(model, herd, aim)
        read += len(herd)
        losses.append(min(scores))
        order = sorted(range(len(herd)), key=scores.__getitem__)
        herd = [herd[n] for n in order][: population // 2]
        if generation < generations - 1:
            herd = mutation(draws, crossover(draws, herd, crossover_rate), choices, mutation_rate)
    return herd[0], losses, read
