"""`descend`: the only training loop. Optimiser, schedule, clipping, progress, log, and a resume to the same bytes.

Inside `resume.resumable(folder)` every call keeps its state in a numbered file there: a finished call returns its result at once when
the run is started again, an interrupted one goes on from its last checkpoint. So does `drawn`, for what is costly between two trainings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from palimpsest import resume
from palimpsest.files import whole

Turn = TypeVar("Turn")
Known = TypeVar("Known")

Log = list[dict[str, float]]  # one row a step: step, loss, gradient_norm (before clipping), and what else a loss notes

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
Schedule = Literal["constant", "cosine"] | dict[int, float]


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate at `step`. A dict gives the factor from each named step on, as in {500: 0.1}."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if isinstance(schedule, dict):
        return next((schedule[s] for s in sorted(schedule, reverse=True) if step >= s), 1.0)
    return 1.0


def foreseen(plan: Sequence[Turn], ahead: int, answer: Callable[[Sequence[Turn]], Sequence[Known]]) -> Callable[[int], Known]:
    """Of each step of a plan what `answer` says of it, who is asked about `ahead` steps at a time, in one batch.

    With `ahead` 1 the answer may depend on what is being trained.
    """

    @lru_cache(maxsize=1)
    def block(number: int) -> Sequence[Known]:
        return answer(plan[number * ahead : (number + 1) * ahead])

    return lambda step: block(step // ahead)[step % ahead]


def descend(
    loss: Callable[[int], Tensor],
    parameters: Sequence[Tensor],
    *,
    steps: int,
    lr: float,
    optimiser: str = "adamw",
    clip: float | None = None,
    schedule: Schedule = "constant",
    generator: torch.Generator | None = None,
    title: str = "",
    after: Callable[[int], None] | None = None,
    noted: Mapping[str, Tensor] | None = None,
    pause: float = 30.0,
    every: int = 0,
    sweep: Mapping[str, Any] | None = None,
    **options: float,
) -> Log:
    """Minimise `loss(step)` over `parameters`, in place.

    Args:
        loss: the scalar to minimise at a step, in [0, steps).
        parameters: leaf tensors that require gradients.
        clip: largest gradient norm over all parameters; None clips nothing.
        schedule: factor on `lr` over the steps.
        generator: the source of every random draw inside `loss`; its state is part of a checkpoint.
        after: called behind every step, for projections and restored rows.
        noted: scalars that `loss` puts here at every step, for the log.
        pause: seconds between checkpoints, where `resumable` says that there are any.
        every, sweep: steps between further checkpoints, which jobs with the same settings `sweep` share: one of more steps begins where one
            of fewer ended, and the reverse. What happens at a step must not depend on how many there are.
        options: handed to the optimiser (betas, weight_decay, momentum).

    Returns:
        one row a step: step, loss, gradient_norm before clipping, and `noted`.

    Raises:
        ValueError: loss or gradient is no longer a finite number.
    """
    descent = OPTIMISERS[optimiser](parameters, lr=lr, **options)
    own, shared = places(title, sweep or {}, range(every, steps + 1, every) if every else ())
    log, spent = resumed(own, shared, parameters, descent, generator)
    wanted = [p for p in parameters if p.requires_grad]  # and no gradient of anything else that is being trained
    started = last = time.perf_counter()
    try:
        with tqdm(range(len(log), steps), initial=len(log), total=steps, desc=title, mininterval=1, disable=len(log) == steps) as bar:
            for step in bar:
                for group in descent.param_groups:
                    group["lr"] = lr * rate(schedule, step, steps)
                descent.zero_grad(set_to_none=True)
                value = loss(step)
                value.backward(inputs=wanted)
                norm = torch.nn.utils.clip_grad_norm_(parameters, clip if clip is not None else math.inf)
                row = {name: scalar.item() for name, scalar in {"loss": value, "gradient_norm": norm, **(noted or {})}.items()}
                if not math.isfinite(row["loss"] + row["gradient_norm"]):
                    raise ValueError(f"{title}: at step {step} loss or gradient is no finite number; lower the learning rate")
                log.append({"step": step, **row})
                descent.step()
                if after:
                    after(step)
                bar.set_postfix(loss=f"{log[-1]['loss']:.4g}", refresh=False)
                now, ended = time.perf_counter(), step + 1 == steps
                due = own if ended or now - last >= pause else None
                for file in filter(None, (due, shared.get(step + 1))):
                    keep(file, parameters, None if ended and file is own else descent, generator, log, spent + now - started)
                    last = time.perf_counter()  # behind the writing, which may take longer than the pause
    finally:
        for parameter in parameters:
            parameter.grad = None
    return log


def drawn(make: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
    """What `make` draws from the generator, which stands behind it, too, where an earlier run of the job has drawn it."""
    kept = resume.kept()
    if not kept:
        return make()
    file = next(kept.trainings)
    if file.exists():
        state = torch.load(file, weights_only=True)
        generator.set_state(state["generator"])
        kept.seconds += state["seconds"]
        return state["made"]
    began, made = time.perf_counter(), make()
    with whole(file) as part:
        torch.save({"made": made, "generator": generator.get_state(), "seconds": time.perf_counter() - began}, part)
    return made


def places(title: str, sweep: Mapping[str, Any], steps: Sequence[int]) -> tuple[Path | None, dict[int, Path]]:
    """Where this training keeps its checkpoints, and where those that jobs share lie, by their number of steps."""
    kept = resume.kept()
    if not kept:
        return None, {}
    own = next(kept.trainings)
    if not kept.shares or not steps:
        return own, {}
    _, place = kept.place(title, sweep)
    return own, {step: place.with_name(f"{place.name}-{step:06d}.pt") for step in steps}


def resumed(
    own: Path | None,
    shared: Mapping[int, Path],
    parameters: Sequence[Tensor],
    descent: torch.optim.Optimizer,
    generator: torch.Generator | None,
) -> tuple[Log, float]:
    """Put the last checkpoint back, if there is one: the log up to it, and the seconds that this job spent on it."""
    kept = resume.kept()
    if kept and own and own.exists():
        log, spent = restore(own, parameters, descent, generator)
        kept.seconds += spent
        return log, spent
    for file in reversed([file for file in shared.values() if file.exists()]):
        return restore(file, parameters, descent, generator)[0], 0.0
    return [], 0.0


def keep(
    file: Path,
    parameters: Sequence[Tensor],
    descent: torch.optim.Optimizer | None,
    generator: torch.Generator | None,
    log: Log,
    seconds: float,
) -> None:
    """Write one checkpoint, whole or not at all; of a training that has ended without the optimiser, which is most of it."""
    state = {
        "parameters": [p.detach() for p in parameters],
        "optimiser": descent.state_dict() if descent else None,
        "generator": generator.get_state() if generator else None,
        "log": log,
        "seconds": seconds,
    }
    with whole(file) as part:
        torch.save(state, part)


@torch.no_grad()
def restore(
    file: Path, parameters: Sequence[Tensor], descent: torch.optim.Optimizer, generator: torch.Generator | None
) -> tuple[Log, float]:
    """Put a checkpoint back in place; returns the log up to it and the seconds that it took."""
    state = torch.load(file, weights_only=True, map_location=parameters[0].device)
    for parameter, kept in zip(parameters, state["parameters"], strict=True):
        parameter.copy_(kept)
    if state["optimiser"]:
        descent.load_state_dict(state["optimiser"])
    if generator is not None:
        generator.set_state(state["generator"].cpu())
    return state["log"], state["seconds"]
