"""The autoencoder of the embedded model: 64 x 64 pictures to 4 x 16 x 16 latents (Rombach et al. 2022), without the adversary."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import avg_pool2d

from palimpsest.mini.clip import pixels
from palimpsest.mini.render import Renders
from palimpsest.optimise import descend

KL = 1e-5  # weight of the pull to a normal latent, as a mean over its elements


def blank() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(32, 32, 64),
        layers_per_block=1, norm_num_groups=8, sample_size=64, mid_block_add_attention=False, scaling_factor=1.0,
    )  # fmt: skip


def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def apart(made: torch.Tensor, real: torch.Tensor, colour: float) -> torch.Tensor:
    """Absolute error of pixels, of their slopes so that edges stay sharp, and, times `colour`, of 4 x 4 means so that hues stay true."""
    errors = [(a - b).abs().mean() for a, b in zip(slopes(made), slopes(real), strict=True)]
    return (made - real).abs().mean() + sum(errors) + colour * avg_pool2d(made - real, 4).abs().mean()


def train(
    vae: AutoencoderKL, data: Renders, *, part: str, steps: int, batch: int = 16, lr: float, colour: float, seed: int
) -> AutoencoderKL:
    """`part` "all" trains encoder and decoder together, "decoder" leaves the latents as they are and sharpens the pictures."""
    draws = torch.Generator().manual_seed(seed)
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    parameters = decoder if part == "decoder" else list(vae.parameters())

    def loss(step: int) -> torch.Tensor:
        rows = torch.randint(len(data.pictures), (batch,), generator=draws)
        real = pixels(data.pictures[rows.numpy()])
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(part == "all"):
            latent = vae.encode(real).latent_dist
        noise = torch.randn(latent.mean.shape, generator=draws)
        with torch.autocast("cpu", torch.bfloat16):
            made = vae.decode(latent.mean + latent.std * noise).sample
        return apart(made.float(), real, colour) + (KL * latent.kl().mean() / noise[0].numel() if part == "all" else 0)

    descend(loss, parameters, steps=steps, lr=lr, schedule="cosine", clip=1.0, generator=draws, title=f"vae {part}", weight_decay=0.0)
    return vae.eval()


@torch.no_grad()
def moments(vae: AutoencoderKL, data: Renders) -> torch.Tensor:
    """Mean and log variance of every picture's latent, "n 8 16 16"."""
    rows = range(0, len(data.pictures), 128)
    return torch.cat([vae.encode(pixels(data.pictures[i : i + 128])).latent_dist.parameters for i in rows])


@torch.no_grad()
def standardise(vae: AutoencoderKL, data: Renders) -> None:
    """Fold each latent channel's mean and deviation over the data into quant_conv and post_quant_conv, so that scaling_factor is 1."""
    latent = moments(vae, data)[:, :4]
    mean, deviation = latent.mean((0, 2, 3)), latent.std((0, 2, 3))
    out = vae.quant_conv
    out.weight[:4] /= deviation[:, None, None, None]
    out.bias[:4] = (out.bias[:4] - mean) / deviation
    out.bias[4:] -= 2 * deviation.log()
    back = vae.post_quant_conv
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= deviation[None, :, None, None]
