"""To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images (UnlearnDiffAtk). Zhang et al.

ECCV 2024, arXiv 2310.11868. The erased model as a diffusion classifier: k tokens beside the prompt that make a target picture likely,

    min_U E_eps || eps - eps_theta'(x_t, t, TE(prompt with tokens ~ U)) ||^2,    U in the simplex, one row a token (Equation 5).

Forward, each row's token is sampled; backward goes straight through, clipped to [-1, 1]; bisection puts a row back on the simplex.
Official code: OPTML-Group/Diffusion-MU-Attack, 5a3e5d3, src/attackers/text_grad_.py and src/tasks/classifier_.py.
Differs from the official code: prompts are rows of one batch; the gradient by U is dL/dE table^T, without autograd through the product;
the job's seed is added to a prompt's; pictures come from the base's own sampler and guidance (there from the prompt's); safe latent
diffusion warms up by steps of the sampler (there t itself is compared, so that it is off but at the end: `warmup: 0`); `start: random` is
random on a GPU too (there it is copied before it is filled). The mode "faithful" keeps its quirks: a picture reseeds
the global generator, so the noise begins anew behind each checkpoint; the text, not the tokens, is asked; prompts over 60 tokens are
dropped (here they are asked plainly, so that success is still a share of all).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from palimpsest import pieces, search, targets
from palimpsest.data import Concept, Images, Prompt, Prompts
from palimpsest.draws import Draws, Seeded, Stream
from palimpsest.types import Count, Model, NotNegative, Positive

NEEDS = ("one encoder",)  # of families/: without it not defined

BUDGET = {
    "stop_early": "white box; for each prompt {k} tokens in {timesteps} x {iterations} steps, a picture of the prompt and one behind each "
    "of the {timesteps}, up to the first that shows the concept",
    "": "white box; for each prompt {k} tokens in {timesteps} x {iterations} steps, a picture of the prompt and one behind each of the "
    "{timesteps}",
}


def projected(a: Tensor, tolerance: float = 1e-5) -> Tensor:
    """Each row of "r v" on the simplex: clip(a - mu, 0, 1) with mu by bisection, to the official tolerance and by its rule to stop."""
    whole = a.clamp(0, 1)
    fits = (whole.sum(1).double() - 1).abs() <= tolerance
    low, high = (a - 1).amin(1).double(), a.amax(1).double()
    mu, moving = low, ~fits & (high - low > tolerance)
    while moving.any():
        mu = torch.where(moving, (low + high) / 2, mu)
        over = (a - mu.to(a)[:, None]).clamp(0, 1).sum(1) - 1
        low, high = torch.where(moving & (over > 0), mu, low), torch.where(moving & (over < 0), mu, high)
        moving &= (over != 0) & (high - low > tolerance)
    return torch.where(fits[:, None], whole, (a - mu.to(a)[:, None]).clamp(0, 1))


def relaxed(k: int, vocabulary: int, start: str, draws: Draws) -> Tensor:
    """The first value of the relaxed one-hot rows, "k v"."""
    if start == "uniform":
        return projected(torch.full((k, vocabulary), 1 / vocabulary))
    return projected(draws.integers(2**24, k, vocabulary) / 2**24)


def attack(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    original: Callable[[], Model],
    plain: Prompts,
    seed: int,
    draw: Callable[..., Tensor],
    judge: Callable[[Tensor, Sequence[Prompt]], tuple[Tensor, Tensor]],
    draws: Stream = Seeded,
    k: Count = 5,
    insertion: Literal["prefix", "suffix", "middle", "spread", "every-3"] = "prefix",
    mode: Literal["faithful", "fixed"] = "faithful",
    start: Literal["uniform", "random"] = "uniform",
    timesteps: Count = 50,
    iterations: Count = 40,
    lr: Positive = 0.01,
    weight_decay: NotNegative = 0.1,
    longest: int = 60,
    stop_early: bool = True,
    prompts: Count | None = None,
    only_shown: bool = False,
    at_once: Count = 8,
) -> Prompts:
    """Search tokens for each plain prompt, from its target picture by the unedited model.

    Args:
        k, insertion: how many tokens, and where among the prompt's.
        mode: "faithful" with the official quirks; "fixed" with a running noise stream, asked by ids, all prompts that fit.
        start: of the rows: uniform, or random and projected.
        timesteps, iterations: visited one after the other; steps at each.
        longest: prompts with more tokens (begin and end counted) are dropped in the faithful mode.
        stop_early: a prompt ends with the first picture that shows the concept (the official code never stops on styles).
        prompts: how many of the plain prompts (None: all).
        only_shown: of those alone for which the unedited model shows the concept.
        at_once: prompts in a batch.
    """
    plain = plain.units(None if only_shown else prompts)
    room = longest if mode == "faithful" else model.tokenizer.model_max_length

    def frame(ids: list[int]) -> search.Frame | None:
        return search.framed(model, ids, search.places(len(ids), k, insertion))

    frames, dropped = search.fitting(model, plain, frame, room)
    aims = targets.drawn(original, plain, draw, judge, batch=at_once)
    plain = targets.shown(plain, aims, prompts) if only_shown else plain
    vocabulary, table = search.choosable(model, concept)

    def begin(_: search.Unit, stream: Draws) -> Tensor:
        return relaxed(k, len(vocabulary), start, stream).to(model.device)

    def move(units: Sequence[search.Unit], rows: Sequence[Tensor], streams: Sequence[Draws], t: int | Tensor) -> Tensor:
        picked = torch.cat([stream.categorical(row.detach().cpu()) for stream, row in zip(streams, rows, strict=True)])
        error, gradient = search.gradients(model, units, table[picked.to(model.device)], t, search.noises(model, streams))
        for row, part in zip(rows, (gradient @ table.T).clamp(-1, 1).split(k), strict=True):
            row.grad = part
        return error

    @torch.no_grad()
    def after(rows: Sequence[Tensor]) -> None:
        for row, part in zip(rows, projected(torch.cat(list(rows))).split(k), strict=True):
            row.copy_(part)

    of = search.Variable(begin, move, after, lambda row: vocabulary[row.argmax(1)])
    budget = search.Budget(mode, timesteps, iterations, lr, weight_decay, stop_early)
    look = search.looking(model, concept, draw, judge, at_once)

    def ask(some: Prompts) -> Prompts:
        known = [row for row in some.rows if row.unit in frames]
        units = [search.Unit(row, frames[row.unit], targets.latent(model, aims[row.unit])) for row in known]
        found = search.sequential(model, units, of, budget, stream=search.seeded(draws, seed), look=look)
        return search.together(some, found, dropped)

    return pieces.by_prompt(plain, at_once, ask)
