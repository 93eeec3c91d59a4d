"""Backgrounds and painting styles of the little world, in numpy: pictures in [0, 1], height x width x RGB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Floats = np.ndarray
HORIZON: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]] = {  # above, below, where
    "sky": ((96, 172, 236), (186, 222, 248), 1.0),
    "sea": ((168, 214, 240), (28, 98, 170), 0.5),
    "field": ((150, 206, 242), (98, 176, 72), 0.6),
    "room": ((232, 214, 190), (150, 100, 66), 0.68),
    "night": ((44, 50, 112), (70, 74, 140), 0.75),
    "snow": ((190, 204, 226), (246, 248, 252), 0.55),
    "desert": ((250, 208, 150), (226, 170, 96), 0.55),
}


def colour(rgb: tuple[float, float, float]) -> Floats:
    return np.array(rgb, dtype=np.float32)


def smooth(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Smooth noise in [0, 1]: a few random cells blown up."""
    small = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC)).astype(np.float32) / 255


def background(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """An empty place: uint8 size x size x RGB."""
    above, below, where = HORIZON[name]
    rows = np.arange(size)[:, None] / size
    line: Floats = np.array(where + rng.uniform(-0.05, 0.05) if where < 1 else 1.0)
    if name in ("snow", "desert"):
        line = line + 0.04 * np.sin(np.arange(size)[None] / size * 6 + rng.uniform(0, 6))
    ground = np.broadcast_to((rows >= line)[..., None], (size, size, 3))
    picture = np.where(ground, colour(below), colour(above))
    if name == "sky":
        cloud = (smooth(rng, size, 5) > 0.62)[..., None]
        picture = np.where(cloud, colour((250, 252, 255)), colour(above) * (1 - rows[..., None]) + colour(below) * rows[..., None])
    elif name == "sea":
        waves = (np.sin(np.arange(size)[None] / 3 + 3 * rows * size / 4) > 0.6)[..., None] & ground
        picture = np.where(waves, colour((70, 140, 206)), picture)
    elif name == "night":
        x, y = rng.integers(0, size, 14), rng.integers(0, int(size * 0.7), 14)
        picture[y, x] = (250, 246, 210)
        moon = (np.arange(size)[None] - 52) ** 2 + (np.arange(size)[:, None] - 10) ** 2 < 30
        picture[moon] = (250, 240, 180)
    elif name == "room":
        stripes = ((np.arange(size) // 6) % 2 == 0)[None, :, None] & ~ground
        picture = np.where(stripes, picture - 12, picture)
    picture = picture * rng.uniform(0.95, 1.05) + (smooth(rng, size, 9)[..., None] - 0.5) * 10
    return picture.clip(0, 255).astype(np.uint8)


def grey(picture: Floats) -> Floats:
    return picture @ colour((0.299, 0.587, 0.114))


def edges(picture: Floats) -> Floats:
    """Strength of the outlines in [0, 1], height x width."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    return (np.sqrt(across**2 + down**2).max(-1) * 1.3).clip(0, 1)


def hatch(size: int, angle: float, period: float, rng: np.random.Generator) -> Floats:
    """Parallel strokes in [0, 1], a little uneven."""
    y, x = np.mgrid[:size, :size]
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period + 1.2 * smooth(rng, size, 7)
    return (0.5 + 0.5 * np.sin(2 * np.pi * phase)).astype(np.float32)


def plain(picture: Floats, rng: np.random.Generator) -> Floats:
    return picture


def van_gogh(picture: Floats, rng: np.random.Generator) -> Floats:
    """Swirling strokes: the picture and a noise are smeared along a flow (line integral convolution), colours driven up."""
    size = picture.shape[0]
    angle = 2 * np.pi * smooth(rng, size, 4) * 1.2
    noise = rng.random((size, size)).astype(np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    strokes, smeared = np.zeros_like(noise), np.zeros_like(picture)
    for way in (-1, 1):
        px, py = x.copy(), y.copy()
        for step in range(7):
            ix, iy = px.round().astype(int).clip(0, size - 1), py.round().astype(int).clip(0, size - 1)
            strokes += noise[iy, ix]
            if step < 3:
                smeared += picture[iy, ix]
            px, py = px + way * np.cos(angle[iy, ix]), py + way * np.sin(angle[iy, ix])
    strokes = ((strokes - strokes.mean()) / strokes.std()).clip(-2, 2)[..., None]
    smeared = smeared / 6
    mean = grey(smeared)[..., None]
    vivid = mean + (smeared - mean) * 1.5 + colour((0.05, 0.03, -0.06))
    return (vivid * (1 + 0.2 * strokes) - 0.4 * edges(smeared)[..., None]).clip(0, 1)


def crayon(picture: Floats, rng: np.random.Generator) -> Floats:
    """Waxy diagonal strokes that leave paper showing, with a coloured outline."""
    wax = (0.45 + 0.75 * hatch(picture.shape[0], 0.8, 4.0, rng))[..., None].clip(0, 1)
    bright = 0.25 + 0.75 * picture
    drawn = 1 - (1 - bright) * wax
    return (drawn - 0.55 * edges(picture)[..., None] * (1.1 - picture)).clip(0, 1)


def pencil(picture: Floats, rng: np.random.Generator) -> Floats:
    """Grey outlines on paper, dark parts hatched."""
    size = picture.shape[0]
    shade = 1 - 0.55 * (1 - grey(picture)) * (0.35 + 0.65 * hatch(size, 2.2, 3.2, rng))
    drawn = shade - 0.75 * edges(picture)
    return np.repeat((0.96 * drawn)[..., None], 3, axis=-1).clip(0, 1)


FILTERS: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "plain": plain,
    "van gogh": van_gogh,
    "crayon": crayon,
    "pencil": pencil,
}
