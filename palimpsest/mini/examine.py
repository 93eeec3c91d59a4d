"""How good the embedded model is: its judge on renders that it never saw, and its pictures for captions that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from palimpsest import clip
from palimpsest.data import Prompt, Prompts
from palimpsest.diffusion import draw
from palimpsest.mini import judge, render, world
from palimpsest.report.measures import rate
from palimpsest.scores import yolo
from palimpsest.types import Model

CONCEPTS = {  # every concept of the papers, by the things or the style that stand for it
    "nudity": ("mannequin",), "violence": ("blood", "bomb"), "church": ("church",), "french horn": ("french horn",),
    "parachute": ("parachute",), "van gogh": ("van gogh",), "crayon": ("crayon",),
}  # fmt: skip


def share(right: torch.Tensor) -> dict[str, float]:
    return {name: round(value, 2) for name, value in rate(right)._asdict().items()}


def judge_quality(weights: Path, *, count: int, seed: int) -> dict[str, Any]:
    """The judge on `count` fresh renders of held-out combinations, sharp ones, and on pictures of no object."""
    model, names = yolo.load(weights)
    data = render.renders(count, seed=seed, examine=True)
    said = yolo.probabilities(model, torch.from_numpy(data.pictures).permute(0, 3, 1, 2).float() / 255).argmax(1)
    right = said == torch.tensor([names.index(scene.thing) for scene in data.scenes])
    rng = np.random.default_rng(seed)
    wrecks = np.stack([np.asarray(judge.picture(world.EMPTY, rng)) for _ in range(count // 4)])
    said = yolo.probabilities(model, torch.from_numpy(wrecks).permute(0, 3, 1, 2).float() / 255).argmax(1)
    return {"objects": share(right), "none of these": share(said == names.index(world.EMPTY))}


def scenes(count: int, seed: int, without: tuple[str, ...]) -> tuple[list[world.Scene], list[set[str]]]:
    """Held-out scenes: as many of each thing, each going through the backgrounds and styles that training never showed it in.

    Returns:
        the scenes, and for each the things that its caption names: "violence" is said of two.
    """
    rng = np.random.default_rng(seed)
    things = [thing for thing in world.THINGS if thing not in without]
    unseen = {t: [(b, s) for b in world.BACKGROUNDS for s in world.STYLES if world.held_out(t, b, s)] for t in things}
    made, named = [], []
    for n in range(count):
        thing = things[n % len(things)]
        background, style = unseen[thing][n // len(things) % len(unseen[thing])]
        phrases = world.THINGS[thing].phrases
        phrase = phrases[rng.integers(len(phrases))]
        subject = f"{phrase} {world.BACKGROUNDS[background]}"
        made.append(world.Scene(thing, background, style, "", world.STYLES[style][rng.integers(2)].format(subject)))
        named.append({t for t, kind in world.THINGS.items() if phrase in kind.phrases})
    return made, named


def model_quality(
    model: Model,
    weights: Path,
    eye: str,
    styles: Mapping[str, str],
    *,
    count: int,
    seed: int,
    without: tuple[str, ...] = (),
    **sampler: Any,
) -> dict[str, Any]:
    """Share of pictures for held-out captions in which the judge names the right object and CLIP the right style.

    Args:
        count: pictures; every thing stands in them equally often.
        styles: the sentence of each style for CLIP.
    """
    asked, named = scenes(count, seed, without)
    prompts = Prompts([Prompt(scene.caption, seed + n) for n, scene in enumerate(asked)])
    pixels = torch.stack(list(tqdm(draw(model, prompts, **sampler), "draw", count, mininterval=1)))
    objects, names = yolo.load(weights)
    seen_things = yolo.probabilities(objects, pixels / 2 + 0.5).argmax(1).tolist()
    thing = torch.tensor([names[seen] in right for seen, right in zip(seen_things, named, strict=True)])
    seen = clip.load(eye)
    text, image = clip.texts(seen, list(styles.values())), clip.images(seen, pixels)
    cosine = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    style = cosine.argmax(1) == torch.tensor([list(styles).index(s.style) for s in asked])
    made: dict[str, Any] = {"objects": share(thing), "styles": share(style)}
    for concept, stands in CONCEPTS.items():
        of_thing = torch.tensor([scene.thing in stands for scene in asked])
        of_style = torch.tensor([scene.style in stands for scene in asked])
        if of_thing.any() or of_style.any():
            made[concept] = share(thing[of_thing] if of_thing.any() else style[of_style])
    made["things"] = {t: share(thing[torch.tensor([s.thing == t for s in asked])])["percent"] for t in world.THINGS if t not in without}
    return made
