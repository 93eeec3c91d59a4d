"""The primitives of a latent diffusion model: encode, guided, predict, noise, noised, denoise, draw.

Shapes: latents "b c h w"; texts "b n d" (or "1 n d" for all rows); t an integer or "b", in [0, 1000).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from palimpsest import tokens
from palimpsest.types import Latents, Mix, Model, Steered, Text

if TYPE_CHECKING:
    from palimpsest.data import Prompts

Row = TypeVar("Row")


def encode(model: Model, texts: Sequence[tokens.Asked], words: dict[str, Tensor] | None = None) -> Text:
    """Texts to the context of cross-attention, "b n d"; learned words stand in the texts as <name>."""
    return tokens.encode(model, texts, words or {})


def guided(text: Text, null: Text, scale: float) -> Mix:
    """Classifier-free guidance (Ho and Salimans 2022): scale eps(text) + (1 - scale) eps(null)."""
    return [(null, 1 - scale), (text, scale)]


def stacked(mix: Mix, rows: int, length: int = 0) -> tuple[Text, Tensor | None]:
    """The texts of a mix one below the other, "m*b n d", padded to one length; and the mask that hides the padding, where there is any."""
    longest = max(length, *(text.shape[1] for text, _ in mix))
    texts = [text.expand(rows, -1, -1) for text, _ in mix]
    if all(text.shape[1] == longest for text in texts):
        return torch.cat(texts), None
    padded = [torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts]
    mask = torch.cat([torch.arange(longest, device=t.device).expand(rows, -1) < t.shape[1] for t in texts])
    return torch.cat(padded), mask


def predictions(model: Model, x: Latents, t: Tensor | int, texts: Sequence[Text], length: int = 0) -> tuple[Latents, ...]:
    """eps(x, t, text) for each of several texts, in one call of the UNet; shorter ones than `length` are padded to it and masked."""
    rows = x.shape[0]
    context, mask = stacked([(text, 1.0) for text in texts], rows, length)
    levels = torch.as_tensor(t, device=x.device).expand(rows).repeat(len(texts))
    with torch.autocast(x.device.type, torch.bfloat16, enabled=model.half):
        out = model.unet(x.repeat(len(texts), 1, 1, 1), levels, context, encoder_attention_mask=mask).sample
    return epsilon(model, x.repeat(len(texts), 1, 1, 1), levels, out.to(x.dtype)).chunk(len(texts))


def epsilon(model: Model, x: Latents, t: Tensor, out: Latents) -> Latents:
    """What the UNet says, as the noise: v-prediction (Salimans and Ho 2022) is mapped, eps = sqrt(abar) v + sqrt(1 - abar) x."""
    if model.scheduler.config.prediction_type != "v_prediction":
        return out
    a = level(model, t)
    return a.sqrt() * out + (1 - a).sqrt() * x


def predict(model: Model, x: Latents, t: Tensor | int, mix: Mix) -> Latents:
    """sum of w_i eps(x, t, text_i), in one call of the UNet."""
    parts = predictions(model, x, t, [text for text, _ in mix])
    return sum((w * part for (_, w), part in zip(mix, parts, strict=True)), start=torch.zeros_like(x))


def level(model: Model, t: Tensor) -> Tensor:
    """abar_t, "b 1 1 1"."""
    return model.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)


def noise(model: Model, generators: torch.Generator | Sequence[torch.Generator], rows: int = 0) -> Latents:
    """Standard normal latents: one row from each generator, or `rows` from a single one. Drawn on the CPU, the same on every device."""
    size = model.unet.config.sample_size
    shape = (model.unet.config.in_channels, size, size)
    if isinstance(generators, torch.Generator):
        return torch.randn((rows, *shape), generator=generators).to(model.device)
    return torch.stack([torch.randn((1, *shape), generator=g)[0] for g in generators]).to(model.device)


def noised(model: Model, x: Latents, t: Tensor, eps: Latents) -> Latents:
    """x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (Ho et al. 2020, Equation 4)."""
    a = level(model, t)
    return a.sqrt() * x + (1 - a).sqrt() * eps


@torch.no_grad()
def moments(model: Model, pixels: Tensor, batch: int = 32) -> Tensor:
    """Mean and log variance of the latents of pictures "n 3 h w" in [-1, 1]: "n 2c h w", unscaled. Encode once, sample often."""
    return torch.cat([model.vae.encode(part.to(model.device)).latent_dist.parameters for part in pixels.split(batch)])


def posterior(model: Model, moments: Tensor, eps: Tensor) -> Latents:
    """A sample of the latents with these moments, scaled as the UNet expects."""
    mean, log_variance = moments.chunk(2, dim=1)
    return (mean + (log_variance.clamp(-30, 20) / 2).exp() * eps) * model.vae.config.scaling_factor


def both_ways(model: Model, pixels: Tensor) -> Tensor:
    """Moments of pictures as they are and of their mirror images, "2 n 2c h w"."""
    return torch.stack([moments(model, pixels), moments(model, pixels.flip(-1))])


def noisy(model: Model, generator: torch.Generator, *moments: Tensor) -> tuple[list[Latents], Tensor, Latents]:
    """x_t of a posterior sample of each of these moments "b 2c h w", all with one t "b" and one eps, which follow; drawn in this order."""
    rows = len(moments[0])
    x = [posterior(model, one, noise(model, generator, rows)) for one in moments]
    t = torch.randint(1000, (rows,), generator=generator).to(model.device)
    eps = noise(model, generator, rows)
    return [noised(model, one, t, eps) for one in x], t, eps


@torch.no_grad()
def denoise(model: Model, x: Latents, mix: Mix | Steered, steps: int, until: int | None = None, start: int = 0) -> tuple[Latents, int]:
    """The only sampling loop. From step `start` to before step `until` (None: to the end) of a `steps` long schedule.

    Returns:
        the latents, and their own noise level t (0 at the end).
    """
    scheduler = type(model.scheduler).from_config(model.scheduler.config)  # a fresh one: schedulers keep state
    scheduler.set_timesteps(steps)
    levels = scheduler.timesteps.tolist()
    until = len(levels) if until is None else until
    state = None
    for step, t in enumerate(levels[start:until], start):
        seen = scheduler.scale_model_input(x, t)
        if isinstance(mix, Steered):
            eps, state = mix.combine(predictions(model, seen, t, mix.texts), step, state)
        else:
            eps = predict(model, seen, t, mix)
        x = scheduler.step(eps, t, x).prev_sample
    return x, levels[until] if until < len(levels) else 0


@torch.no_grad()
def sdedit(model: Model, x: Latents, mix: Mix | Steered, eps: Latents, *, strength: float, steps: int) -> Latents:
    """Redraw pictures under another mix from part-way noise (Meng et al. 2022). strength in (0, 1]: share of the schedule run again, as
    diffusers' image-to-image pipeline counts it."""
    scheduler = type(model.scheduler).from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    start = min(steps - int(steps * strength), steps - 1)
    t = scheduler.timesteps[start].expand(len(x)).to(x.device)
    return denoise(model, noised(model, x, t, eps), mix, steps, start=start)[0]


@torch.no_grad()
def decode(model: Model, x: Latents) -> Tensor:
    """Latents to pictures "b 3 h w" in [-1, 1]."""
    return model.vae.decode(x / model.vae.config.scaling_factor).sample.clamp(-1, 1)


def filled(rows: Sequence[Row], batch: int) -> list[Row]:
    """A short batch filled up with its last row, so that a row's bits do not depend on how many stand beside it."""
    return [*rows, *[rows[-1]] * (batch - len(rows))]


@torch.no_grad()
def draw(model: Model, prompts: Prompts, *, steps: int, guidance: float, batch: int) -> Iterator[Tensor]:
    """One picture "3 h w" in [-1, 1] for every prompt, each from its own seed; another batch size may round otherwise, as a machine may."""
    null = encode(model, [""])
    words: dict[str, Any] = dict(prompts.vectors)
    for first in range(0, len(prompts.rows), batch):
        rows = prompts.rows[first : first + batch]
        whole = filled(rows, batch)
        x = noise(model, [torch.Generator().manual_seed(row.seed) for row in whole])
        mix = model.guide(encode(model, [row.asked for row in whole], words), null, guidance)
        pictures = decode(model, denoise(model, x, mix, steps)[0])
        yield from pictures[: len(rows)]


def drawn(model: Model, prompts: Prompts, *, steps: int, guidance: float, batch: int) -> Tensor:
    """What `draw` gives, in one tensor "n 3 h w" in [-1, 1]."""
    return torch.stack(list(draw(model, prompts, steps=steps, guidance=guidance, batch=batch)))
