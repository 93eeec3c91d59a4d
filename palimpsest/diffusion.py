"""The primitives of a latent diffusion model: encode, guided, predict, noise, noised, denoise, draw.

Shapes: latents "b c h w"; texts "b n d" (or "1 n d" for all rows); t a number or "b", in [0, 1000).

A network may say the noise, or v, or a velocity: `epsilon` makes noise of it and `unsaid` the reverse, and nobody else needs to know. For a
rectified flow (Liu et al. 2023; Esser et al. 2024) x_t = (1 - s) x_0 + s eps with s = t / 1000, and the network says eps - x_0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from palimpsest import families, tokens
from palimpsest.types import Latents, Level, Mix, Model, Steered, Text

if TYPE_CHECKING:
    from palimpsest.data import Prompts

Row = TypeVar("Row")
FLOW = "velocity"


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


def heard(model: Model, x: Latents, t: Tensor | Level, texts: Sequence[Text], length: int = 0) -> tuple[Latents, Tensor, Latents]:
    """x, t and what the network itself says of several texts, each for all of them one below the other; `length` as in `predictions`."""
    rows = x.shape[0]
    context, mask = stacked([(text, 1.0) for text in texts], rows, length)
    levels, x = torch.as_tensor(t, device=x.device).expand(rows).repeat(len(texts)), x.repeat(len(texts), 1, 1, 1)
    own = next(model.unet.parameters()).dtype
    with torch.autocast(x.device.type, torch.bfloat16, enabled=model.half and own == torch.float32):
        out = families.of(model).call(model, x.to(own), levels, context.to(own), mask)
    return x, levels, out.to(x.dtype)


def predictions(model: Model, x: Latents, t: Tensor | Level, texts: Sequence[Text], length: int = 0) -> tuple[Latents, ...]:
    """eps(x, t, text) for each of several texts, in one call of the UNet; shorter ones than `length` are padded to it and masked."""
    return epsilon(model, *heard(model, x, t, texts, length)).chunk(len(texts))


def kind(model: Model) -> str:
    """What the network says: "epsilon", "v_prediction" or, where a scheduler has no name for it, the velocity of a flow."""
    return model.scheduler.config.get("prediction_type", FLOW)


def epsilon(model: Model, x: Latents, t: Tensor, out: Latents) -> Latents:
    """What the network says, as the noise: eps = sqrt(abar) v + sqrt(1 - abar) x (v-prediction, Salimans and Ho 2022), or x + (1 - s) v."""
    said = kind(model)
    if said == "epsilon":
        return out
    picture, noise = rates(model, t)
    return picture * out + (x if said == FLOW else noise * x)


def unsaid(model: Model, x: Latents, t: Tensor, eps: Latents) -> Latents:
    """What the network would say for this noise: the reverse of `epsilon`.

    Raises:
        ValueError: of a flow, whose first level leaves that open.
    """
    said = kind(model)
    if said == "epsilon":
        return eps
    if said == FLOW:
        raise ValueError(f"a guidance with a state needs the noise, and {families.lacks(model, 'noise')}; take another method")
    picture, noise = rates(model, t)
    return (eps - noise * x) / picture


def mixed(mix: Mix, parts: Sequence[Latents]) -> Latents:
    """sum of w_i parts_i."""
    return sum((w * part for (_, w), part in zip(mix, parts, strict=True)), start=torch.zeros_like(parts[0]))


def predict(model: Model, x: Latents, t: Tensor | Level, mix: Mix) -> Latents:
    """sum of w_i eps(x, t, text_i), in one call of the UNet."""
    return mixed(mix, predictions(model, x, t, [text for text, _ in mix]))


def level(model: Model, t: Tensor) -> Tensor:
    """abar_t, "b 1 1 1"; of a level between two integers that of the lower."""
    return model.scheduler.alphas_cumprod.to(t.device)[t.long()].view(-1, 1, 1, 1)


def rates(model: Model, t: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the picture and how much of the noise is in x_t, "b 1 1 1" each: sqrt(abar) and sqrt(1 - abar), or 1 - s and s."""
    if kind(model) == FLOW:
        s = t.view(-1, 1, 1, 1) / 1000
        return 1 - s, s
    a = level(model, t)
    return a.sqrt(), (1 - a).sqrt()


def noise(model: Model, generators: torch.Generator | Sequence[torch.Generator], rows: int = 0) -> Latents:
    """Standard normal latents: one row from each generator, or `rows` from a single one. Drawn on the CPU, the same on every device."""
    size = model.unet.config.sample_size
    shape = (model.unet.config.in_channels, size, size)
    if isinstance(generators, torch.Generator):
        return torch.randn((rows, *shape), generator=generators).to(model.device)
    return torch.stack([torch.randn((1, *shape), generator=g)[0] for g in generators]).to(model.device)


def noised(model: Model, x: Latents, t: Tensor, eps: Latents) -> Latents:
    """x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (Ho et al. 2020, Equation 4); of a rectified flow (1 - s) x + s eps."""
    picture, noise = rates(model, t)
    return picture * x + noise * eps


@torch.no_grad()
def moments(model: Model, pixels: Tensor, batch: int = 32) -> Tensor:
    """Mean and log variance of the latents of pictures "n 3 h w" in [-1, 1]: "n 2c h w", unscaled. Encode once, sample often."""
    return torch.cat([model.vae.encode(part.to(model.device)).latent_dist.parameters for part in pixels.split(batch)])


def posterior(model: Model, moments: Tensor, eps: Tensor) -> Latents:
    """A sample of the latents with these moments, scaled as the UNet expects."""
    mean, log_variance = moments.chunk(2, dim=1)
    return scaled(model, mean + (log_variance.clamp(-30, 20) / 2).exp() * eps)


def scaled(model: Model, z: Latents) -> Latents:
    """Latents of the VAE as the UNet expects them."""
    return (z - (model.vae.config.shift_factor or 0.0)) * model.vae.config.scaling_factor


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


def scheduled(model: Model, steps: int) -> Any:
    """The model's sampler at the beginning of a `steps` long schedule: a fresh one, for they keep state. `timesteps` are its levels."""
    scheduler = type(model.scheduler).from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def denoise(model: Model, x: Latents, mix: Mix | Steered, steps: int, until: int | None = None, start: int = 0) -> tuple[Latents, Level]:
    """The only sampling loop. From step `start` to before step `until` (None: to the end) of a `steps` long schedule.

    A sampler that remembers earlier steps remembers none on entry.

    Returns:
        the latents, and their own noise level t (0 at the end).
    """
    scheduler = scheduled(model, steps)
    levels, state = scheduler.timesteps, None
    until = len(levels) if until is None else until
    x, orders = blown_up(scheduler, x, start), "order" in signature(scheduler.step).parameters
    for step, t in enumerate(levels[start:until], start):
        seen = shrunk(scheduler, x, t)
        if isinstance(mix, Steered):
            eps, state = mix.combine(predictions(model, seen, t, mix.texts), step, state)
            out = unsaid(model, seen, t.to(x.device), eps)
        else:
            out = mixed(mix, heard(model, seen, t, [text for text, _ in mix])[2].chunk(len(mix)))
        known = {"order": min(step - start + 1, 4)} if orders else {}  # LMS weighs as if it knew all steps from the first
        x = scheduler.step(out, t, x, **known).prev_sample
    return (shrunk(scheduler, x, levels[until]), levels[until].item()) if until < len(levels) else (x, 0)


def shrunk(scheduler: Any, x: Latents, t: Tensor) -> Latents:
    """x_t as the network sees it, of the scale at which the sampler keeps it: Euler and LMS divide by sqrt(abar), the others by 1."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def blown_up(scheduler: Any, x: Latents, start: int) -> Latents:
    """The reverse on entry at step `start`; at the first, where x is noise, as diffusers' pipelines begin."""
    if start == 0:
        return x * getattr(scheduler, "init_noise_sigma", 1.0)
    return x / shrunk(scheduler, torch.ones_like(x), scheduler.timesteps[start])


def legacy_stop(k: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """`latent_alignment: legacy`, the rule of ESD's program of 2023, which AdvUnlearn took over: x_t and its label, which do not agree.

    The label is any level of the k-th of `steps` parts of [0, 1000), counted from the clean end. x_t begins at the second step of the
    schedule and goes two steps further than k, for k = 0 and 1 to the end.

    Returns:
        before which step x_t stops, and the levels [low, high) of the label, all of the shape of k.
    """
    edges = torch.tensor([round(part / steps * 1000) for part in range(steps + 1)])
    return (steps + 1 - k).clamp(max=steps), edges[k], edges[k + 1]


@torch.no_grad()
def sdedit(model: Model, x: Latents, mix: Mix | Steered, eps: Latents, *, strength: float, steps: int) -> Latents:
    """Redraw pictures under another mix from part-way noise (Meng et al. 2022). strength in (0, 1]: share of the schedule run again, as
    diffusers' image-to-image pipeline counts it."""
    start = min(steps - int(steps * strength), steps - 1)
    t = scheduled(model, steps).timesteps[start].expand(len(x)).to(x.device)
    return denoise(model, noised(model, x, t, eps), mix, steps, start=start)[0]


@torch.no_grad()
def decode(model: Model, x: Latents) -> Tensor:
    """Latents to pictures "b 3 h w" in [-1, 1]."""
    z = x / model.vae.config.scaling_factor + (model.vae.config.shift_factor or 0.0)
    return model.vae.decode(z.to(model.vae.dtype)).sample.to(x.dtype).clamp(-1, 1)


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
