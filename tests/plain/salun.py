"""SalUn as in `generate_mask.py` and `nsfw_removal.py`: a call for each text, the mask by two sorts, gradients times the mask."""

from __future__ import annotations

import copy
from itertools import cycle

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from palimpsest.data import Concept, Images
from palimpsest.types import Model
from plain import encode, latent, noise, noisy, said


def drawn(
    model: Model, images: Images, role: str, rows: list[int], draws: torch.Generator, samples: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """x_t of rows of a role for several posterior samples, then t and eps."""
    pixels = images.only(role).pixels(rows)
    x = [latent(model, pixels, noise(model, len(rows), draws)) for _ in range(samples)]
    t = torch.randint(1000, (len(rows),), generator=draws)
    eps = noise(model, len(rows), draws)
    return [noisy(model, one, t, eps) for one in x], t, eps


def gradients(
    model: Model, images: Images, draws: torch.Generator, *, texts: list[str], batch: int, w: float = 7.5
) -> list[dict[str, Tensor]]:
    """Stage 1 a batch at a time, two calls of the network each."""
    unet, made = copy.deepcopy(model.unet).requires_grad_(True), []
    for first in range(0, len(texts), batch):
        rows = list(range(first, min(first + batch, len(texts))))
        (x_t,), t, eps = drawn(model, images, "pool", rows, draws, 1)
        c, null = encode(model, [texts[n] for n in rows]), encode(model, [""] * len(rows))
        guess = (1 + w) * said(unet, x_t, t, c) - w * said(unet, x_t, t, null)
        unet.zero_grad()
        (-mse_loss(eps, guess)).backward()
        made.append({f"unet.{name}": p.grad.clone() for name, p in unet.named_parameters()})
    return made


def summed(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum((part[name] for part in parts), torch.zeros(())) for name in parts[0]}


def by_sorting(sizes: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The mask by rank: two sorts of everything, equals in order."""
    line = torch.cat([size.flatten() for size in sizes.values()])
    ranks = torch.argsort(torch.argsort(-line, stable=True))
    parts = (ranks < int(len(line) * share)).split([size.numel() for size in sizes.values()])
    return {name: part.view_as(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def remapped(
    model: Model, images: Images, masks: dict[str, Tensor], draws: torch.Generator, *, texts: list[list[str]], batch: int, alpha: float,
    lr: float, epochs: int = 1,
) -> dict[str, Tensor]:  # fmt: skip
    """Stage 2: three calls of a second network a step, gradients times the mask, Adam. `texts`: c_f and c_remap by picture, c_r."""
    unet, (own, other, kept) = copy.deepcopy(model.unet).requires_grad_(True), texts
    adam = torch.optim.Adam(unet.parameters(), lr=lr)
    ours, theirs = ([list(range(len(some)))[n : n + batch] for n in range(0, len(some), batch)] for some in (own, kept))
    for rows, others in [pair for _ in range(epochs) for pair in zip(ours, cycle(theirs), strict=False)]:  # cycle has no end
        (x_r,), t_r, eps_r = drawn(model, images, "anchor", others, draws, 1)
        (x, x_other), t, _ = drawn(model, images, "pool", rows, draws, 2)
        c_f, c_remap = (encode(model, [lines[n] for n in rows]) for lines in (own, other))
        keep = mse_loss(said(unet, x_r, t_r, encode(model, [kept[n] for n in others])), eps_r)
        goal = said(unet, x_other, t, c_remap).detach()
        adam.zero_grad()
        (mse_loss(said(unet, x, t, c_f), goal) + alpha * keep).backward()
        for name, p in unet.named_parameters():
            p.grad *= masks[f"unet.{name}"]
        adam.step()
    return {f"unet.{name}": p.detach() for name, p in unet.named_parameters()}


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, share: float = 0.5, forget_text: str | None = None,
    remap_text: str | None = None, retain_text: str | None = None, alpha: float = 0.1, epochs: int = 1, batch: int = 8, lr: float = 1e-5,
) -> dict[str, Tensor]:  # fmt: skip
    """Both stages."""
    draws = torch.Generator().manual_seed(seed)
    own, kept = ([row.prompt.text for row in images.only(role).rows] for role in ("pool", "anchor"))
    remap = [remap_text or kept[n % len(kept)] for n in range(len(own))]
    own, kept = [forget_text or text for text in own], [retain_text or text for text in kept]
    sizes = {name: g.abs() for name, g in summed(gradients(model, images, draws, texts=own, batch=batch)).items()}
    masks = by_sorting(sizes, share)
    return remapped(model, images, masks, draws, texts=[own, remap, kept], batch=batch, alpha=alpha, lr=lr, epochs=epochs)
