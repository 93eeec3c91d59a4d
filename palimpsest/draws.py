"""The random stream of one search, behind four names: a test records a stream, or replays that of the official code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor


class Draws(Protocol):
    """What a search draws from. All tensors are on the CPU, the same for every device."""

    def noise(self, *shape: int) -> Tensor:
        """Standard normal values."""
        ...

    def integers(self, high: int, *shape: int) -> Tensor:
        """Whole numbers in [0, high): timesteps, tokens, places."""
        ...

    def categorical(self, p: Tensor) -> Tensor:
        """One index "k" of each row of the probabilities "k v"."""
        ...

    def order(self, count: int) -> Tensor:
        """The whole numbers in [0, count), shuffled."""
        ...

    def get_state(self) -> Tensor:
        """For a checkpoint, as of a torch.Generator."""
        ...

    def set_state(self, state: Tensor) -> object: ...


class Seeded:
    """Drawn by torch from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)
        self.get_state, self.set_state = self.generator.get_state, self.generator.set_state

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator)

    def categorical(self, p: Tensor) -> Tensor:
        return torch.multinomial(p, 1, generator=self.generator)[:, 0]

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)


Stream = Callable[[int], Draws]  # from the seed of a prompt to its stream


def side_by_side(draws: Sequence[Draws], *shape: int) -> Tensor:
    """Noise "b ...", a row from each stream."""
    return torch.stack([draw.noise(*shape) for draw in draws])
