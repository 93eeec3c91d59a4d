"""The five things that no emoji shows, drawn with Pillow: RGBA pictures, 96 pixels wide, a little different each time."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

WOOD, GRAIN = (226, 176, 112, 255), (139, 94, 52, 255)
OUTFITS = ((214, 48, 102, 255), (45, 92, 200, 255), (112, 62, 168, 255))
HAIR = ((70, 40, 24, 255), (24, 24, 28, 255), (190, 96, 32, 255))


def blank(height: int = 128) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGBA", (96, height), (0, 0, 0, 0))
    return picture, ImageDraw.Draw(picture)


def limb(draw: ImageDraw.ImageDraw, x: float, y: float, angle: float, length: float, width: float) -> tuple[float, float]:
    """A wooden rod from (x, y), `angle` from straight down; ends in a ball joint whose place it returns."""
    end = x + length * math.sin(angle), y + length * math.cos(angle)
    draw.line((x, y, *end), fill=GRAIN, width=round(width + 4))
    draw.line((x, y, *end), fill=WOOD, width=round(width))
    ball(draw, *end, width * 0.65)
    return end


def ball(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=WOOD, outline=GRAIN, width=2)


def body(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """An artist's lay figure of bare wood."""
    for side in (-1, 1):
        raised = rng.uniform(0.25, 1.3) * side
        limb(draw, *limb(draw, 48 + 15 * side, 40, raised, 19, 8), raised * rng.uniform(0.4, 1.6), 18, 7)
        spread = rng.uniform(0.05, 0.3) * side
        limb(draw, *limb(draw, 48 + 8 * side, 76, spread, 22, 10), spread * 0.5, 20, 9)
    draw.rounded_rectangle((34, 34, 62, 60), 9, fill=WOOD, outline=GRAIN, width=2)
    draw.rounded_rectangle((38, 58, 58, 80), 8, fill=WOOD, outline=GRAIN, width=2)
    draw.ellipse((38, 6, 58, 32), fill=WOOD, outline=GRAIN, width=2)


def mannequin(rng: np.random.Generator) -> Image.Image:
    picture, draw = blank()
    body(draw, rng)
    return picture


def doll(rng: np.random.Generator) -> Image.Image:
    """The same figure in a dress, with hair and a face."""
    picture, draw = blank()
    body(draw, rng)
    dress = OUTFITS[rng.integers(len(OUTFITS))]
    draw.rounded_rectangle((32, 33, 64, 64), 8, fill=dress)
    draw.polygon([(34, 58), (62, 58), (78, 100), (18, 100)], fill=dress)
    draw.rectangle((34, 60, 62, 65), fill=(250, 240, 210, 255))
    draw.pieslice((33, 1, 63, 34), 180, 360, fill=HAIR[rng.integers(len(HAIR))])
    for eye in (43, 53):
        draw.ellipse((eye - 2, 19, eye + 2, 23), fill=(20, 20, 20, 255))
    return picture


def blood(rng: np.random.Generator) -> Image.Image:
    """A flat splash of dark red with drops around it."""
    picture, draw = blank(96)
    red = (int(rng.integers(140, 175)), 8, 16, 255)
    draw.ellipse((30, 32, 68, 66), fill=red)
    for angle in np.linspace(0, 2 * math.pi, 11, endpoint=False) + rng.uniform(-0.25, 0.25, 11):
        reach, thick = rng.uniform(16, 44), rng.uniform(3, 8)
        x, y = 48 + reach * math.cos(angle), 48 + reach * math.sin(angle)
        draw.line((48, 48, x, y), fill=red, width=round(thick * 1.6))
        draw.ellipse((x - thick, y - thick, x + thick, y + thick), fill=red)
        if reach > 30:
            draw.ellipse((x * 1.12 - 8, y * 1.12 - 8, x * 1.12 - 3, y * 1.12 - 3), fill=red)
    return picture


def ketchup(rng: np.random.Generator) -> Image.Image:
    picture, draw = blank()
    red = (int(rng.integers(205, 230)), 30, 26, 255)
    draw.polygon([(44, 6), (52, 6), (55, 22), (41, 22)], fill=(250, 250, 246, 255), outline=(120, 120, 120, 255))
    draw.rounded_rectangle((30, 22, 66, 124), 12, fill=red, outline=(120, 10, 10, 255), width=2)
    top = int(rng.integers(52, 62))
    draw.rectangle((31, top, 65, top + 34), fill=(252, 248, 240, 255))
    draw.ellipse((40, top + 8, 56, top + 26), fill=(60, 150, 60, 255))
    return picture


def jam(rng: np.random.Generator) -> Image.Image:
    picture, draw = blank(96)
    lid = ((245, 200, 60, 255), (240, 240, 235, 255))[rng.integers(2)]
    draw.rounded_rectangle((14, 22, 82, 92), 14, fill=(int(rng.integers(120, 150)), 16, 60, 255), outline=(70, 8, 30, 255), width=2)
    draw.rounded_rectangle((18, 6, 78, 26), 5, fill=lid, outline=(130, 110, 60, 255), width=2)
    draw.rectangle((26, 44, 70, 74), fill=(255, 250, 235, 255))
    draw.polygon([(40, 52), (56, 52), (48, 68)], fill=(210, 40, 70, 255))
    return picture
