"""Data sets of the little world: many scenes rendered by several processes, the same for any number of them."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from palimpsest.mini import world


class Renders(NamedTuple):
    pictures: np.ndarray  # uint8, n x 64 x 64 x 3
    scenes: list[world.Scene]


def one(index: int, *, seed: int, examine: bool, without: tuple[str, ...]) -> tuple[world.Picture, world.Scene]:
    rng = np.random.default_rng([seed, index])
    scene = world.sample(rng, examine=examine, without=without)
    return world.render(scene, rng), scene


def renders(count: int, *, seed: int, examine: bool = False, without: tuple[str, ...] = ()) -> Renders:
    """`count` pictures with their scenes; picture i depends on (seed, i) alone."""
    task = partial(one, seed=seed, examine=examine, without=without)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        made = list(tqdm(pool.map(task, range(count), chunksize=200), total=count, desc="render", mininterval=1))
    return Renders(np.stack([picture for picture, _ in made]), [scene for _, scene in made])


def save(data: Renders, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, pictures=data.pictures, scenes=np.array(data.scenes))


def load(file: Path) -> Renders:
    data = np.load(file, allow_pickle=False)
    return Renders(data["pictures"], [world.Scene(*row) for row in data["scenes"].tolist()])
