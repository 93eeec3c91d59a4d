"""DUO one picture at a time, the original a second network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from palimpsest.data import Concept, Images
from palimpsest.types import Model
from plain import encode, latent, noise

ABAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0).tolist()


def said(unet: Any, change: dict[str, Tensor], x: Tensor, t: int, text: Tensor) -> Tensor:
    """eps of one latent "c h w" with changed weights."""
    return functional_call(unet, change, (x[None], t, text)).sample[0]


def attention(model: Model, blocks: tuple[str, ...]) -> dict[str, Tensor]:
    """The projections of these attention blocks, by name."""
    named = {name: p for name, p in model.unet.named_parameters() if ".to_" in name and name.endswith("weight")}
    return {name: p for name, p in named.items() if name.split(".to_")[0].endswith(blocks)}


def named(factors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """A copy of the factors, named as in an erasure."""
    return {f"unet.{name.removesuffix('.weight')}.lora_{kind}.weight": value.detach().clone() for name, value in factors.items()}


def objective(
    ours: list[list[Tensor]], theirs: list[list[Tensor]], pure: list[Tensor], *, form: str, beta: float, base_lambda: float,
    dynamic_lambda: bool, no_grad: str,
) -> Tensor:  # fmt: skip
    """The loss of a process at a step from the squared errors of student and original, clean ones first, pair by pair."""
    batch = len(ours[0])
    if form == "naive":
        return -sum(ours[0], torch.zeros(())) / batch
    d = [[a - b for a, b in zip(mine, known, strict=True)] for mine, known in zip(ours, theirs, strict=True)]
    if form == "kto":
        d[0] = [sum(d[0], torch.zeros(())) / batch] * batch
    d[0] = [value.detach() for value in d[0]] if no_grad == "descent" else d[0]
    d[1] = [value.detach() for value in d[1]] if no_grad == "ascent" else d[1]
    loss = sum((torch.log1p(torch.exp(beta * (a - b))) for a, b in zip(*d, strict=True)), torch.zeros(())) / batch
    weight = base_lambda * beta / 100 * (100 if dynamic_lambda and loss < 0.1 else 1)
    return loss + weight * torch.stack(pure).square().mean()


def batches(
    model: Model,
    images: Images,
    draws: torch.Generator,
    *,
    form: str,
    steps: int,
    batch: int,
    t_min: int,
    t_max: int,
    share_t: bool,
    processes: int,
) -> Iterator[tuple[list[list[int]], Tensor, Tensor, Tensor]]:
    """For each process of each step the pictures of each side, their levels "s b", each pair's noise, each picture's posterior noise."""
    pool, clean = ([n for n, row in enumerate(images.rows) if row.role == role] for role in ("pool", "clean"))
    unsafe = {images.rows[n].prompt.seed: n for n in pool}
    pool = pool if form == "naive" else [unsafe[images.rows[n].prompt.seed] for n in clean]
    order = torch.randperm(len(pool), generator=draws).tolist() if form == "kto" else list(range(len(pool)))
    sides = [pool] if form == "naive" else [[clean[n] for n in order], pool]
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < batch:
            queue += torch.randperm(len(pool), generator=draws).tolist()
        rows, queue = queue[:batch], queue[batch:]
        share = batch // processes
        shape = (1, 1) if form == "kto" else (1, share) if share_t else (len(sides), share)
        levels = torch.randint(t_min, t_max, shape, generator=draws).expand(len(sides), share)
        own = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (1,), generator=draws)))
        eps, z = noise(model, share, own), noise(model, len(sides) * share, own).unflatten(0, (len(sides), share))
        for first in range(0, batch, share):  # the processes of a step: all draw what the first draws
            yield [[side[row] for row in rows[first : first + share]] for side in sides], levels, eps, z


def trace(
    model: Model, images: Images, *, seed: int, form: str = "dpo", beta: float = 500.0, base_lambda: float = 1e6,
    dynamic_lambda: bool = False, steps: int = 1000, batch: int = 4, rank: int = 32, base_lr: float = 3e-4, cross_attention: bool = False,
    t_min: int = 0, t_max: int = 750, share_t: bool = False, prior_t: int = 999, no_grad: str = "none", given_prompt: bool = False,
    optimiser: str = "adamw", weight_decay: float = 1e-2, clip: float = 1.0, eps: float = 1e-8,
    processes: int = 1,
) -> Iterator[tuple[float, dict[str, Tensor]]]:  # fmt: skip
    """The loss of each step, and the factors behind it; `eps` is Adam's."""
    original, draws = copy.deepcopy(model.unet), torch.Generator().manual_seed(seed)
    layers = attention(model, ("attn1", "attn2") if cross_attention else ("attn1",))
    down = {name: torch.randn(rank, w.shape[1], generator=draws) / rank for name, w in layers.items()}
    up = {name: torch.zeros(w.shape[0], rank) for name, w in layers.items()}
    factors = [part.requires_grad_() for name in layers for part in (down[name], up[name])]
    lr = base_lr if form == "naive" else base_lr * 100 / beta
    adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimiser](factors, lr=lr, weight_decay=weight_decay, eps=eps)
    plan = batches(
        model, images, draws, form=form, steps=steps, batch=batch, t_min=t_min, t_max=t_max, share_t=share_t, processes=processes
    )
    whole = 0.0
    for turn, (sides, levels, noises, spread) in enumerate(plan, 1):
        change = {name: w + up[name] @ down[name] for name, w in layers.items()}
        wrong: tuple[list[list[Tensor]], list[list[Tensor]]] = ([[], []], [[], []])  # of student and original
        pure: list[Tensor] = []
        for s, side in enumerate(sides):
            for b, row in enumerate(side):
                x, abar, t = latent(model, images.pixels([row]), spread[s, [b]])[0], ABAR[levels[s, b]], int(levels[s, b])
                x_t = math.sqrt(abar) * x + math.sqrt(1 - abar) * noises[b]
                text = encode(model, [images.rows[row].prompt.text if given_prompt else ""])
                wrong[0][s].append((said(model.unet, change, x_t, t, text) - noises[b]).square().mean())
                if form != "naive":
                    wrong[1][s].append((said(original, {}, x_t, t, text) - noises[b]).square().mean())
        if base_lambda and form != "naive":
            null = encode(model, [""])
            pure = [said(model.unet, change, e, prior_t, null) - said(original, {}, e, prior_t, null) for e in noises]
        loss = objective(
            *wrong, pure or [torch.zeros(())], form=form, beta=beta, base_lambda=base_lambda, dynamic_lambda=dynamic_lambda,
            no_grad=no_grad,
        )  # fmt: skip
        (loss / processes).backward()
        whole += loss.item() / processes
        if turn % processes:
            continue
        torch.nn.utils.clip_grad_norm_(factors, clip)
        adam.step()
        adam.zero_grad()
        yield whole, named(down, "A") | named(up, "B")
        whole = 0.0


def erase(model: Model, concept: Concept, images: Images, *, seed: int, **settings: Any) -> dict[str, Tensor]:
    """The weights behind the last step."""
    *_, (_, found) = trace(model, images, seed=seed, **settings)
    stems = [name.removesuffix(".lora_A.weight") for name in found if "lora_A" in name]
    made = {f"{stem}.weight": found[f"{stem}.lora_B.weight"] @ found[f"{stem}.lora_A.weight"] for stem in stems}
    return {name: model.unet.get_parameter(name.removeprefix("unet.")) + change for name, change in made.items()}
