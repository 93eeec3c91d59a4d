"""How much faster each method is than its plain form, in one run.

    OMP_NUM_THREADS=1 python benchmarks/methods.py [CASE...] 2>/dev/null

Ours and the form that a plain reading of paper and official program gives (tests/plain; tests/test_benchmarks.py shows that both give the
same weights) erase a church from the embedded model in turn: ours, plain, ours, plain, ... Settings are those of params.yaml with fewer
steps. Times are seconds of CPU, the median over two turns, or of one where a turn is long. A step is the mean of those behind the first
ones; the last line of a case is all that a run takes with the steps that params.yaml asks for, what is prepared before the first step
included. Some five minutes of a core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from palimpsest import data, models
from palimpsest.files import sha256
from palimpsest.mini import world
from palimpsest.prompts import grammar
from palimpsest.workflow import entries, params

TOP = Path(__file__).parents[1]


class Stage(NamedTuple):
    """A training: the setting that counts its steps, how many are timed, how many of these are not counted, and steps a count of it."""

    name: str
    setting: str
    timed: int
    first: int = 1
    each: int = 1


class Case(NamedTuple):
    """An entry of params.yaml, what is changed in it, the stages (told apart by their numbers of steps), what ours saves."""

    entry: str
    stages: tuple[Stage, ...]
    saves: str
    changes: dict[str, Any] = {}  # noqa: RUF012
    whole: str = "a run"
    turns: int = 2


class Times(NamedTuple):
    steps: tuple[float, ...]  # seconds of a step of each stage
    whole: float


DM2 = (Stage("mine", "mine_steps", 8), Stage("circumvent", "steps", 3))
ESD = (Stage("step", "steps", 5),)
LOOP: dict[str, Any] = {"max_loops": 1, "tau": -2.0}  # one loop, whatever its verifier says
CASES = {
    "dm2": Case("dm2", DM2, "24 pictures drawn in one batch, not one a sample; 4 + 3 texts in two calls; moments", LOOP, "a loop"),
    "dm2-paper": Case("dm2", DM2, "as many pictures as the plain form, in one batch", {**LOOP, "batch": 1, "bank": 80}, "a loop", 1),
    "dm2-nothing-drawn": Case("dm2", DM2, "x comes from the pool in both", {**LOOP, "x_source": "pool"}, "a loop", 1),
    "esd": Case("esd", ESD, "both texts of guidance and target in one call, rows together; texts encoded once"),
    "esd-x-strict": Case("esd", ESD, "the same", {"variant": "x-strict"}),
    "esd-u": Case("esd-u", ESD, "the same"),
    "esd-2025": Case(
        "esd",
        (Stage("step", "steps", 16, 8),),
        "x_t of 8 steps and of all rows in one batch, their targets too; texts encoded once",
        {"form": "2025", "eta": 2.0},
        turns=1,
    ),
    "esd-full": Case("esd-u", ESD, "the same", {"variant": "full"}),
    "ca": Case("ca", (Stage("step", "steps", 12),), "each view's moments and each text once; a step's two calls are the official ones"),
    "salun": Case(
        "salun",
        (Stage("step", "epochs", 12, each=12),),
        "moments and texts once, c_f and c_r in one call, guidance in one call; no sort",
        turns=1,
    ),
    "duo": Case("duo", (Stage("step", "steps", 6),), "pairs and pure noise in one call of each model; moments and texts once"),
    "stereo": Case(
        "stereo",
        (Stage("ste", "ste_steps", 5), Stage("attack", "invert_steps", 8), Stage("reo", "steps", 6)),
        "rows and texts in one call, the target's 5 texts too; texts encoded once; moments; the new rows alone trained",
        turns=1,
    ),
    "advunlearn-warmup": Case(
        "advunlearn",
        (Stage("step", "steps", 16, 8),),
        "x_t of 8 steps and of all rows in one batch; texts",
        {"warmup": 60, "steps": 60},
        turns=1,
    ),
    "advunlearn": Case(
        "advunlearn",
        (Stage("step", "steps", 16, 8),),
        "the same with those of the attacks, whose targets too",
        {"warmup": 0, "steps": 90},
        turns=1,
    ),
    "fmn": Case(
        "fmn", (Stage("word", "ti_steps", 8), Stage("attention", "steps", 6)), "rows in one call; moments; the new rows alone trained"
    ),
    "uce": Case("uce", (), "one system for all layers; texts encoded once"),
    "rece": Case("rece", (), "the same; rounds stay in matrices of the text's width"),
}
EXTRA = ("ahead", "checkpoint")  # settings of ours that change no value


def now() -> float:
    """Seconds of CPU of this process; with a GPU those on the clock, once it has done what it was told."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def stamped() -> Iterator[list[tuple[Optimizer, float]]]:
    """Which optimiser made a step, and when."""
    stamps: list[tuple[Optimizer, float]] = []
    handle = register_optimizer_step_post_hook(lambda optimiser, *_: stamps.append((optimiser, now())))
    try:
        yield stamps
    finally:
        handle.remove()


def timed(erase: Callable[[], Any], case: Case, asked: dict[str, Any]) -> Times:
    """One run with few steps, and what it comes to with as many as are asked for."""
    with stamped() as stamps:
        began = now()
        erase()
        whole = now() - began
    runs: dict[int, list[float]] = {}
    for optimiser, at in stamps:
        runs.setdefault(id(optimiser), []).append(at)
    steps = []
    for stage in case.stages:
        found = [times for times in runs.values() if len(times) == stage.timed]
        steps.append(sum((times[-1] - times[stage.first - 1]) / (stage.timed - stage.first) for times in found) / len(found))
        whole += len(found) * (asked[stage.setting] * stage.each - stage.timed) * steps[-1]
    return Times(tuple(steps), whole)


def settings(case: Case) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The method's file, its settings, and the same with the few steps that are timed."""
    of, given = entries.plugin(params.load(), "methods", case.entry, "church")
    asked = {**given, **case.changes}
    return of, asked, few(case, asked)


def few(case: Case, asked: dict[str, Any]) -> dict[str, Any]:
    """Settings with the few steps that are timed."""
    return {**asked, **{stage.setting: stage.timed // stage.each for stage in case.stages}}


def scene(folder: Path, size: int = 64) -> tuple[data.Concept, data.Images]:
    """The concept, and as many pictures of each role as params.yaml asks for, painted and not drawn by the model."""
    fields = yaml.safe_load(Path("data/concepts/church.yaml").read_text())
    classes = fields.pop("detectors")["mini"]["classes"]
    bare, asked = data.Concept.of({"name": "church", "classes": classes, **fields}), params.load()
    concept = data.Concept.of({"name": "church", "classes": classes, **fields}, grammar.prompts(bare, seed=0))
    counts, rng, rows = (asked["pool"]["images"], asked["pool"]["anchors"], asked["pairs"]["images"]), np.random.default_rng(0), []
    roles = (("pool", "church", "pool"), ("anchor", "tree", "anchors"), ("clean", "tree", "anchors"))
    for (role, thing, said), count in zip(roles, counts, strict=True):
        for n in range(count):
            text, file = concept.texts[said][n % len(concept.texts[said])], f"{role}-{n}.png"
            picture = data.Image.fromarray(world.render(world.Scene(thing, "field", "plain", "", text), rng))
            picture.resize((size, size)).save(folder / file)
            rows.append(data.Picture(file, sha256(folder / file), data.Prompt(text, n), role))
    return concept, data.Images(rows, folder)


def measured(name: str, model: Any, concept: data.Concept, images: data.Images) -> None:
    """Both forms of a case in turn, and a line for each of its stages."""
    case, (of, asked, short) = CASES[name], settings(CASES[name])
    forms = [import_module(f"palimpsest.methods.{of}").erase, import_module(f"plain.{of}").erase]
    known = [short, {key: value for key, value in short.items() if key not in EXTRA}]
    found: list[list[Times]] = [[], []]
    for _ in range(case.turns):
        for form, given, times in zip(forms, known, found, strict=True):
            times.append(timed(lambda: form(model, concept, images, seed=0, **given), case, asked))
    print(f"{name}: {case.saves}")
    for n, stage in enumerate(case.stages):
        ours, plain = (median(one.steps[n] for one in times) for times in found)
        print(f"  {stage.name:<12} {stage.timed - stage.first:>5} steps {ours:>9.4f} {plain:>9.4f} {plain / ours:>7.1f}")
    ours, plain = (median(one.whole for one in times) for times in found)
    print(f"  {case.whole:<12} {'':>11} {ours:>9.3f} {plain:>9.3f} {plain / ours:>7.1f}", flush=True)


def main(*names: str) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(TOP / "tests"))
    model = models.load(params.load()["bases"]["mini"])
    print(f"{'case, stage':<14} {'timed':>11} {'ours, s':>9} {'plain, s':>9} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        concept, images = scene(Path(folder))
        for name in names or CASES:
            measured(name, model, concept, images)


if __name__ == "__main__":
    main(*sys.argv[1:])
