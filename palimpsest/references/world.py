"""Pictures of the little world that the embedded model was trained on, drawn anew from a stream of their own."""

from __future__ import annotations

from palimpsest.data import Prompt, to_tensor
from palimpsest.mini import render, world
from palimpsest.references import Real


def pictures(*, images: int, stream: int) -> Real:
    """`images` scenes with their captions, each from (stream, its number)."""
    made = render.renders(images, seed=stream)
    rows = [Prompt(s.caption, n, "other", "" if s.thing == world.EMPTY else s.thing, s.style) for n, s in enumerate(made.scenes)]
    return Real(rows, lambda piece: map(to_tensor, made.pictures[piece]))
