"""The pictures that the judge of the embedded model learns from: every object, and a class of its own for what is none of them.

A forced choice would call half a church a church. The class `none` therefore holds empty backgrounds, blobs of colour, and pictures
whose object was erased in part: cut away, dissolved into another one, or smeared.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from palimpsest.mini import world


def scene(thing: str, rng: np.random.Generator) -> world.Scene:
    style = str(rng.choice(list(world.STYLES), p=list(world.STYLE_SHARE.values())))
    size = str(rng.choice(["", "small", "big"], p=[0.8, 0.1, 0.1]))
    return world.Scene(thing, list(world.BACKGROUNDS)[rng.integers(len(world.BACKGROUNDS))], style, size, "")


def wreck(rng: np.random.Generator) -> Image.Image:
    """A picture whose object is there in part only, or a blob in its place."""
    things = list(world.THINGS)
    whole = world.render(scene(things[rng.integers(len(things))], rng), rng)
    other = world.render(scene(things[rng.integers(len(things))], rng), rng)
    kind = rng.integers(5)
    if kind == 0:  # two pictures dissolved into one another
        return Image.fromarray(((whole.astype(int) + other) // 2).astype(np.uint8))
    if kind == 1:  # cut in the middle, the rest from another picture
        turned, joined = rng.random() < 0.5, whole.copy()
        joined[(slice(0, 32) if turned else slice(0, 64)), (slice(0, 64) if turned else slice(0, 32))] = other[
            (slice(0, 32) if turned else slice(0, 64)), (slice(0, 64) if turned else slice(0, 32))
        ]
        return Image.fromarray(joined)
    if kind == 2:  # smeared beyond telling
        return Image.fromarray(whole).filter(ImageFilter.GaussianBlur(float(rng.uniform(4, 7))))
    if kind == 3:  # its small squares in disorder
        squares = whole.reshape(4, 16, 4, 16, 3).swapaxes(1, 2).reshape(16, 16, 16, 3)
        return Image.fromarray(rng.permutation(squares).reshape(4, 4, 16, 16, 3).swapaxes(1, 2).reshape(64, 64, 3))
    empty = Image.fromarray(world.render(scene(world.EMPTY, rng), rng))
    draw = ImageDraw.Draw(empty)
    for _ in range(int(rng.integers(1, 5))):
        x, y, w, h = rng.uniform(16, 48), rng.uniform(16, 48), rng.uniform(5, 18), rng.uniform(5, 18)
        draw.ellipse((x - w, y - h, x + w, y + h), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return empty


def picture(thing: str, rng: np.random.Generator) -> Image.Image:
    """One picture of the class, half of them softened as a decoder softens."""
    broken = thing == world.EMPTY and rng.random() < 0.75
    drawn = wreck(rng) if broken else Image.fromarray(world.render(scene(thing, rng), rng))
    return drawn.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.1)))) if rng.random() < 0.5 else drawn


def write(item: tuple[str, int], *, folder: Path, seed: int) -> None:
    thing, index = item
    place = folder / thing
    place.mkdir(parents=True, exist_ok=True)
    picture(thing, np.random.default_rng([seed, index, *thing.encode()])).save(place / f"{index:05d}.png")


def write_classes(folder: Path, *, count: int, seed: int) -> None:
    """Folders of pictures, one a class, `count` in each (three times as many for `none`)."""
    items = [(thing, n) for thing in world.THINGS for n in range(count)]
    items += [(world.EMPTY, n) for n in range(3 * count)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        task = partial(write, folder=folder, seed=seed)
        list(tqdm(pool.map(task, items, chunksize=100), total=len(items), desc=f"render {folder.name}", mininterval=1))
