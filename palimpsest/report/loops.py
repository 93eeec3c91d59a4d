"""How an erasure by mining went, as in Dark Miner's Figure S1: the verifier's s(c) loop by loop, and what the mined embedding draws."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from safetensors import safe_open

SHOWN = 8  # pairs of pictures


class Loops(NamedTuple):
    """s(c) of every loop, before and after circumventing (not a number where a loop did not get there), and pictures of some of them."""

    method: str
    before: list[float]
    after: list[float]
    pairs: dict[int, tuple[Image.Image, Image.Image]]  # of loops that got there
    seconds: dict[int, float]  # what a loop took, where its erasure counted it


def loops(method: str, file: Path, cost: Path) -> Loops | None:
    """Of an erasure, and what it cost, where that is here; None of one that has no loops, or whose files are not here."""
    tensors = file.with_suffix(".found.safetensors")
    if not (file.exists() and tensors.exists()):
        return None
    log = json.loads(file.read_text()).get("log") or []
    if not isinstance(log, list) or not all("loop" in row and "s" in row for row in log):
        return None
    finished = [row["loop"] for row in log if "s_after" in row]
    some = finished[:: max(1, math.ceil(len(finished) / SHOWN))]
    with safe_open(tensors, "pt") as found:
        pairs = {
            n: tuple(found.get_tensor(f"loop-{n:02d}-{when}")[0].permute(1, 2, 0).numpy() for when in ("before", "after")) for n in some
        }
    shown = {n: (Image.fromarray(first), Image.fromarray(last)) for n, (first, last) in pairs.items()}
    laps = json.loads(cost.read_text()).get("laps", {}) if cost.exists() else {}
    seconds = {n: laps[lap] for n in shown if (lap := f"loop-{n:02d}") in laps}
    return Loops(method, [row["s"] for row in log], [row.get("s_after", math.nan) for row in log], shown, seconds) if log else None
