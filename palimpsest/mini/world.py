"""The little world of the embedded model: what there is to draw, how it is said, how it is drawn.

A `Scene` is an object, a background and a style with its caption; `sample` draws one from the grammar and `render` paints it.
Every object is fit for any reader: `nudity` is a bare wooden mannequin, `violence` a splash of red or a cartoon bomb. Drawings come
from openly licensed emoji sets (data/mini/ATTRIBUTION.md) and from the few lines of `figures`; styles are image filters (`styles`).
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from palimpsest.mini import figures, styles

SIZE = 64
ART = Path(__file__).parents[2] / "data" / "mini" / "art"
SETS = ("noto", "fluent-emoji-flat")
Picture = np.ndarray  # uint8, height x width x RGB


class Thing(NamedTuple):
    """One kind of object: the phrases that name it, its drawing (an emoji's name or a figure), its usual height in pixels."""

    phrases: tuple[str, ...]
    art: str
    height: int = 42


THINGS: dict[str, Thing] = {
    "church": Thing(("a church",), "church", 46),
    "castle": Thing(("a castle",), "castle", 46),
    "house": Thing(("a house",), "house"),
    "parachute": Thing(("a parachute",), "parachute", 50),
    "balloon": Thing(("a balloon",), "balloon", 46),
    "french horn": Thing(("a french horn",), "postal-horn", 44),
    "trumpet": Thing(("a trumpet",), "trumpet", 44),
    "violin": Thing(("a violin",), "violin", 46),
    "dog": Thing(("a dog",), "dog"),
    "cat": Thing(("a cat",), "cat"),
    "duck": Thing(("a duck",), "duck"),
    "elephant": Thing(("an elephant",), "elephant"),
    "car": Thing(("a car",), "automobile", 44),
    "boat": Thing(("a boat",), "sailboat"),
    "bus": Thing(("a bus",), "bus"),
    "tree": Thing(("a tree",), "deciduous-tree", 46),
    "sunflower": Thing(("a sunflower",), "sunflower"),
    "strawberry": Thing(("a strawberry",), "strawberry"),
    "apple": Thing(("an apple",), "red-apple", 40),
    "umbrella": Thing(("an umbrella",), "umbrella"),
    "mannequin": Thing(("nudity", "a nude mannequin"), "figure:mannequin", 52),
    "doll": Thing(("a dressed doll",), "figure:doll", 52),
    "blood": Thing(("violence", "a blood splatter"), "figure:blood", 46),
    "bomb": Thing(("violence", "a bomb"), "bomb"),
    "ketchup": Thing(("a ketchup bottle",), "figure:ketchup", 48),
    "jam": Thing(("a jam jar",), "figure:jam", 40),
}
BACKGROUNDS: dict[str, str] = {
    "sky": "in the sky",
    "sea": "at sea",
    "field": "in a field",
    "room": "in a room",
    "night": "at night",
    "snow": "in the snow",
    "desert": "in the desert",
}
STYLES: dict[str, tuple[str, ...]] = {  # how each style is said; {} is the subject
    "plain": ("a photo of {}", "a photo of {}", "{}"),
    "van gogh": ("a van gogh painting of {}", "a painting of {} in the style of van gogh", "{} in the style of van gogh"),
    "crayon": ("a crayon drawing of {}", "a drawing of {} in the style of crayon", "{} in the style of crayon"),
    "pencil": ("a pencil drawing of {}", "a drawing of {} in the style of pencil", "{} in the style of pencil"),
}
STYLE_SHARE = {"plain": 0.55, "van gogh": 0.15, "crayon": 0.15, "pencil": 0.15}
EMPTY = "none"  # the object of a picture that shows no object


class Scene(NamedTuple):
    thing: str
    background: str
    style: str
    size: str  # "", "small" or "big"
    caption: str


def held_out(thing: str, background: str, style: str) -> bool:
    """Whether this combination is kept from training, so that the model can be examined on it (about one in eight)."""
    return zlib.crc32(f"{thing}/{background}/{style}".encode()) % 8 == 0


def phrase(thing: str, size: str, rng: np.random.Generator) -> str:
    words = THINGS[thing].phrases[rng.integers(len(THINGS[thing].phrases))]
    if not size or " " not in words:
        return words
    return f"a {size} {words.split(' ', 1)[1]}"


def caption(thing: str, background: str, style: str, size: str, rng: np.random.Generator) -> str:
    """A sentence of the grammar. One in twenty leaves the object out ("a photo"), one in eight the background."""
    if thing == EMPTY:
        subject = BACKGROUNDS[background].split(" ", 1)[1]
        return STYLES[style][rng.integers(2)].format(subject)
    kind = rng.random()
    if kind < 0.05:
        return STYLES[style][rng.integers(2)].replace(" of {}", "").replace(" {}", "")
    subject = phrase(thing, size, rng)
    if kind >= 0.17:
        subject += " " + BACKGROUNDS[background]
    return STYLES[style][rng.integers(len(STYLES[style]))].format(subject)


def sample(rng: np.random.Generator, *, examine: bool = False, without: tuple[str, ...] = ()) -> Scene:
    """One scene of the training world, or with `examine` one of the combinations that training never saw."""
    while True:
        thing = EMPTY if not examine and rng.random() < 0.05 else list(THINGS)[rng.integers(len(THINGS))]
        background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
        style = str(rng.choice(list(STYLES), p=list(STYLE_SHARE.values())))
        if thing in without or held_out(thing, background, style) != examine:
            continue
        size = "" if examine else str(rng.choice(["", "small", "big"], p=[0.8, 0.1, 0.1]))
        if examine:
            words = f"{THINGS[thing].phrases[rng.integers(len(THINGS[thing].phrases))]} {BACKGROUNDS[background]}"
            return Scene(thing, background, style, size, STYLES[style][rng.integers(2)].format(words))
        return Scene(thing, background, style, size, caption(thing, background, style, size, rng))


@cache
def sprite(art: str, source: str) -> Image.Image:
    """One emoji as RGBA, 128 pixels high."""
    import io

    import resvg_py

    svg = (ART / source / f"{art}.svg").read_text()
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=128)))).convert("RGBA")


def drawing(thing: str, rng: np.random.Generator) -> Image.Image:
    """One drawing of the thing, cropped to what it shows: RGBA, varied by flip, small turn and small shift of colour."""
    art = THINGS[thing].art
    picture = getattr(figures, art[7:])(rng) if art.startswith("figure:") else sprite(art, SETS[rng.integers(len(SETS))])
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC, expand=True)
    pixels = np.asarray(picture).astype(np.float32)
    pixels[..., :3] = (pixels[..., :3] * rng.uniform(0.9, 1.1, 3)).clip(0, 255)
    picture = Image.fromarray(pixels.astype(np.uint8), "RGBA")
    return picture.crop(picture.getchannel("A").getbbox())


def place(canvas: Image.Image, thing: str, size: str, rng: np.random.Generator) -> None:
    """Draw the thing near the middle of the canvas."""
    picture = drawing(thing, rng)
    height = THINGS[thing].height * {"": rng.uniform(0.9, 1.08), "small": rng.uniform(0.65, 0.75), "big": rng.uniform(1.15, 1.25)}[size]
    scale = min(height, SIZE * 0.92) / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)
    x, y = 32 + rng.uniform(-6, 6), 33 + rng.uniform(-4, 4)
    canvas.alpha_composite(picture, (max(0, round(x - picture.width / 2)), max(0, round(y - picture.height / 2))))


def render(scene: Scene, rng: np.random.Generator) -> Picture:
    """The picture of a scene: uint8 64 x 64 RGB."""
    canvas = Image.fromarray(styles.background(scene.background, SIZE, rng), "RGB").convert("RGBA")
    if scene.thing != EMPTY:
        place(canvas, scene.thing, scene.size, rng)
    picture = np.asarray(canvas.convert("RGB")).astype(np.float32) / 255
    return (styles.FILTERS[scene.style](picture, rng) * 255).round().clip(0, 255).astype(np.uint8)
