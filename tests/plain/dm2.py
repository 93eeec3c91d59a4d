"""Dark Miner as the paper says it: a picture drawn under c for every circumvented sample, one at a time, by the whole sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palimpsest import clip, edits
from palimpsest.data import Concept, Images
from palimpsest.optimise import OPTIMISERS, rate
from palimpsest.types import Model
from plain import ddim, encode, latent, levels, noise, noisy, said


class Mined(NamedTuple):
    """An embedding of the pool P_E, "1 L d", and the noise that its pictures are drawn from: each may come more than once."""

    c: Tensor
    z: Tensor


class Descent(NamedTuple):
    optimiser: str
    options: dict[str, float]
    lr: float
    clip: float
    schedule: dict[int, float]

    def run(self, gradients: Callable[[], float], parameters: list[Tensor], steps: int) -> list[float]:
        """`steps` of the optimiser, each after `gradients` has put them there and said the loss."""
        descent = OPTIMISERS[self.optimiser](parameters, lr=self.lr, **self.options)
        losses = []
        for step in range(steps):
            descent.param_groups[0]["lr"] = self.lr * rate(self.schedule, step, steps)
            descent.zero_grad()
            losses.append(gradients())
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)
            descent.step()
        return losses


def norm(error: Tensor) -> Tensor:
    """The squared norm of the equations, averaged over rows."""
    return error.pow(2).sum((1, 2, 3)).mean()


def mine(
    model: Model, unet: torch.nn.Module, c: Tensor, pixels: Tensor, draws: torch.Generator, descent: Descent, steps: int
) -> tuple[Tensor, list[float]]:
    """Equation 5: the loop's pictures in one batch, each through the VAE at every step. The loss of each step follows."""
    c = c.clone().requires_grad_()

    def gradients() -> float:
        z, eps = noise(model, len(pixels), draws), noise(model, len(pixels), draws)
        t = torch.randint(1000, (len(pixels),), generator=draws)
        x_t = noisy(model, latent(model, pixels, z), t, eps)
        loss = norm(eps - said(unet, x_t, t, c))
        loss.backward(inputs=[c])
        return loss.item()

    losses = descent.run(gradients, [c], steps)
    return c.detach(), losses


@torch.no_grad()
def verify(
    model: Model, unet: torch.nn.Module, eye: clip.Clip, c: Tensor, c0: Tensor, x: Tensor, pixels: Tensor, guidance: float, steps: int
) -> float:
    """Equation 6: a picture under c and one under c0 from the same noise, drawn and looked at one by one."""
    pool, found = clip.images(eye, pixels), []
    for one in x.split(1):
        drawn = [ddim(model, unet, one, text, encode(model, [""]), levels(steps), guidance) for text in (c, c0)]
        x_c, x_r = (clip.images(eye, model.vae.decode(z / model.vae.config.scaling_factor).sample.clamp(-1, 1)) for z in drawn)
        found.append(cosine_similarity(x_c - x_r, pool - x_r).mean())
    return float(torch.stack(found).mean())


def circumvent(
    model: Model, unet: torch.nn.Module, picture: Callable[[Mined, int], Tensor], pick: Callable[[], Mined], parameters: list[Tensor],
    draws: torch.Generator, descent: Descent, *, anchor: str, steps: int, batch: int, alpha_p: float,
) -> None:  # fmt: skip
    """Equations 7 and 8, a picture at a time: four calls of the student and three of the original."""

    def gradients() -> float:
        one = pick()
        rows = torch.randint(len(one.z), (batch,), generator=draws).tolist()
        total = 0.0
        times, noises = torch.randint(1000, (batch,), generator=draws), noise(model, batch, draws)
        for row, t, eps in zip(rows, times.tolist(), noises.split(1), strict=True):
            c0 = encode(model, [anchor])
            x_t, kept = noisy(model, picture(one, row), t, eps), [c0, 0 * one.c, -one.c]
            with torch.no_grad():
                wanted = [said(model.unet, x_t, t, text) for text in kept]
            l_c = norm(said(unet, x_t, t, one.c) - wanted[0])
            l_p = sum(norm(said(unet, x_t, t, text) - known) for text, known in zip(kept, wanted, strict=True))
            loss = (l_c + alpha_p * l_p) / batch
            loss.backward()
            total += loss.item()
        return total

    descent.run(gradients, parameters, steps)


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, clip_model: str, max_loops: int = 60, images_per_loop: int = 3,
    length: int = 32, mine_steps: int = 1000, mine_lr: float = 0.1, mine_schedule: dict[int, float] | None = None, mine_clip: float = 10.0,
    tau: float = 0.2, verify_images: int = 1, bank: int = 128, x_source: str = "original", replay: float = 0.7, steps: int = 1000,
    batch: int = 1, lr: float = 0.01, schedule: dict[int, float] | None = None, clip_norm: float = 100.0, alpha_p: float = 0.5,
    rank: int = 8, anchor: str = "a photo", optimiser: str = "sgd", weight_decay: float = 0.0, sampler_steps: int = 50,
    guidance: float = 7.5,
) -> dict[str, Tensor]:  # fmt: skip
    """The loops. `bank` and `x_source` say which noise, or which picture of the pool, a sample may meet: nothing is drawn ahead."""
    draws, eye = torch.Generator().manual_seed(seed), clip.load(clip_model)
    student, pixels = model._replace(unet=copy.deepcopy(model.unet)), images.only("pool").pixels()
    photo, width = anchor.format(anchor=concept.anchor), encode(model, [""]).shape[2]
    options = {} if optimiser == "adam" else {"weight_decay": weight_decay}
    mining = Descent(optimiser, options, mine_lr, mine_clip, mine_schedule or {500: 0.1})
    training = Descent(optimiser, options, lr, clip_norm, schedule or {800: 0.1})
    how = {"anchor": photo, "steps": steps, "batch": batch, "alpha_p": alpha_p}
    pool: list[Mined] = []

    def picture(one: Mined, row: int) -> Tensor:
        if x_source == "pool":
            return latent(model, pixels[[row]], one.z[[row]])
        return ddim(model, model.unet, one.z[[row]], one.c, encode(model, [""]), levels(sampler_steps), guidance)

    def pick() -> Mined:
        fresh = len(pool) == 1 or torch.rand(1, generator=draws).item() < replay
        return pool[-1] if fresh else pool[int(torch.randint(len(pool) - 1, (1,), generator=draws))]

    with edits.lora(student, "unet.*.to_v.weight", rank=rank, generator=draws) as edit:
        for _ in range(max_loops):
            rows = torch.randperm(len(pixels), generator=draws)[:images_per_loop]
            c = torch.randn((1, length, width), generator=draws)
            c, _ = mine(model, student.unet, c, pixels[rows], draws, mining, mine_steps)
            x, c0 = noise(model, verify_images, draws), encode(model, [photo])
            if verify(model, student.unet, eye, c, c0, x, pixels[rows], guidance, sampler_steps) <= tau:
                break
            pool.append(Mined(c, noise(model, len(pixels) if x_source == "pool" else bank, draws)))
            circumvent(model, student.unet, picture, pick, edit.parameters, draws, training, **how)  # type: ignore[arg-type]
            noise(model, verify_images, draws)  # ours looks once more for its log; the paper does not
        return edits.weights(model, edit.erasure())
