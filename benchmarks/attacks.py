"""How much faster searches over many prompts at once are than one prompt at a time, in one run.

    OMP_NUM_THREADS=1 python benchmarks/attacks.py [CASE...] 2>/dev/null

Ours and the plain form (tests/plain; tests/test_<attack>.py shows that both find the same) search the same prompts of the embedded model in
turn: ours, plain, ours, plain. Times are seconds of CPU (of the clock, with a GPU), the median over two turns: of a step of one prompt, and
of all that a run of so few steps takes, pictures included. "vocabulary" is what UnlearnDiffAtk does on rows over CLIP's vocabulary
beside the network: the gradient by the rows and the projection, for one step of 8 prompts; "ring_a_bell" is its genetic search. Some four
minutes of a core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from palimpsest import data, diffusion, models
from palimpsest.draws import Seeded
from palimpsest.prompts import grammar
from palimpsest.workflow import params

TOP = Path(__file__).parents[1]
PROMPTS = 16
BLOCKS: dict[str, Any] = {"timesteps": 2, "iterations": 4, "stop_early": False}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "unlearndiff": ("unlearndiff", BLOCKS, "prompts as rows; no autograd through the vocabulary; all rows projected together"),
    "p4d": ("p4d", BLOCKS, "prompts as rows; the unedited model's text once; all rows projected by one product"),
    "p4d-n": ("p4d", {"form": "n", "steps": 6, "every": 6, "clip_model": "data/mini/clip"}, "the same; pictures of a checkpoint together"),
    "p4d-k": ("p4d", {"form": "k", "steps": 6, "every": 6, "clip_model": "data/mini/clip"}, "the same"),
}


def now() -> float:
    """Seconds of CPU of this process; with a GPU those on the clock, once it has done what it was told."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def judge(pixels: Tensor, rows: Any) -> tuple[Tensor, Tensor]:
    """Likes all the same, and finds nothing."""
    return torch.zeros(len(pixels)), torch.zeros(len(pixels), dtype=torch.bool)


def timed(attack: Callable[[], Any], prompts: int) -> tuple[float, float]:
    """Seconds of a step of one prompt, the mean of those behind the second of each optimiser, and of the whole run."""
    stamps: dict[int, list[float]] = {}
    kept: list[Optimizer] = []  # alive, so that no two have one id

    def stamp(optimiser: Optimizer, *_: Any) -> None:
        kept.append(optimiser)
        stamps.setdefault(id(optimiser), []).append(now())

    handle, began = register_optimizer_step_post_hook(stamp), now()
    try:
        attack()
    finally:
        handle.remove()
    whole = now() - began
    each = [(times[-1] - times[1]) / (len(times) - 2) for times in stamps.values()]  # forms n and k draw behind the first
    return sum(each) / prompts, whole


def measured(name: str, given: dict[str, Any]) -> None:
    of, settings, saves = CASES[name]
    ours, plain = (import_module(f"{package}.{of}").attack for package in ("palimpsest.attacks", "plain"))
    found: tuple[list[tuple[float, float]], ...] = ([], [])
    for _ in range(2):
        found[0].append(timed(lambda: ours(**given, **settings, at_once=PROMPTS), PROMPTS))
        found[1].append(timed(lambda: plain(**given, **settings), PROMPTS))
    print(f"{name}: {saves}")
    for n, stage in enumerate(("a step", "this run")):
        one, other = (median(times[n] for times in both) for both in found)
        print(f"  {stage:<12} {one:>9.4f} {other:>9.4f} {other / one:>7.1f}", flush=True)


def vocabulary() -> None:
    """A step's gradient and projection of 40 rows of 49,408, CLIP's own width."""
    ours, plain = import_module("palimpsest.attacks.unlearndiff"), import_module("plain.unlearndiff")
    draws = torch.Generator().manual_seed(0)
    table, gradient = torch.randn(49408, 768, generator=draws), 1e-3 * torch.randn(40, 768, generator=draws)
    rows, picked = torch.full((40, 49408), 1 / 49408), torch.randint(49408, (40,), generator=draws)

    def together() -> Tensor:
        return ours.projected(rows - 0.01 * (gradient @ table.T).clamp(-1, 1).sign())

    def alone() -> Tensor:
        moved = []
        for first in range(0, 40, 5):
            part = rows[first : first + 5].clone().requires_grad_()
            (plain.Sampled.apply(part, picked[first : first + 5]) @ table).backward(gradient[first : first + 5])
            moved += [plain.projected(row) for row in part.detach() - 0.01 * part.grad.sign()]
        return torch.stack(moved)

    assert together().sub(alone()).abs().max() < 1e-6
    seconds: tuple[list[float], ...] = ([], [])
    for _ in range(3):
        for work, times in zip((together, alone), seconds, strict=True):
            began = now()
            work()
            times.append(now() - began)
    one, other = median(seconds[0]), median(seconds[1])
    print("vocabulary: one product and one projection, no one-hot product forward")
    print(f"  {'8 prompts':<12} {one:>9.4f} {other:>9.4f} {other / one:>7.1f}", flush=True)


def ring_a_bell(model: Any, concept: data.Concept, plain: data.Prompts) -> None:
    """The genetic search for 4 prompts: fitness of the last generation remembered, all populations in one batch."""
    ours, alone = import_module("palimpsest.attacks.ring_a_bell"), import_module("plain.ring_a_bell")
    rows, how = plain.units(4).rows, ours.Search(8, 100, 60, 0.5, 0.25, 64)
    aims = diffusion.encode(model, [row.text for row in rows]) + ours.concept_vector(model, None, ours.pairs(concept, None), None)
    choices = ours.choosable(concept, model.tokenizer)
    settings = {name: value for name, value in how._asdict().items() if name != "batch"}
    began = now()
    found, _ = ours.evolved(model, aims, [Seeded(row.seed) for row in rows], choices, how)
    one, began = now() - began, now()
    each = [alone.search(model, aim, Seeded(row.seed), choices.tolist(), **settings)[0] for aim, row in zip(aims, rows, strict=True)]
    other = now() - began
    assert found.tolist() == each
    print("ring_a_bell: fitness remembered, populations of all prompts in one batch")
    print(f"  {'4 prompts':<12} {one:>9.4f} {other:>9.4f} {other / one:>7.1f}", flush=True)


def main(*names: str) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(TOP / "tests"))
    base = params.load()["bases"]["mini"]
    fields = {"name": "church", "kind": "object", "words": ["church"], "adjective": "church", "anchor": "a tree", "initialiser": "object"}
    concept = data.Concept.of({**fields, "classes": ["church"], "near": [], "sensitive": False})
    texts = grammar.prompts(concept, seed=0)
    plain = data.Prompts(texts.pop("plain"))
    concept = replace(concept, texts=texts)
    draw = partial(diffusion.drawn, steps=base["steps"], guidance=base["guidance"])
    given = {
        "model": models.load(base), "concept": concept, "images": None, "original": lambda: models.load(base), "plain": plain, "seed": 0,
        "draw": draw, "judge": judge, "prompts": PROMPTS,
    }  # fmt: skip
    print(f"{'case, stage':<14} {'ours, s':>9} {'plain, s':>9} {'ratio':>7}")
    others = {"vocabulary": vocabulary, "ring_a_bell": partial(ring_a_bell, given["model"], concept, plain)}
    for name in names or (*CASES, *others):
        others[name]() if name in others else measured(name, given)


if __name__ == "__main__":
    main(*sys.argv[1:])
