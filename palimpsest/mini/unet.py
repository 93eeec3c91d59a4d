"""The denoiser of the embedded model: SD's UNet2DConditionModel, epsilon prediction, SD's noise schedule."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from palimpsest.mini.clip import tokens
from palimpsest.optimise import descend

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def blank() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, cross_attention_dim=96, norm_num_groups=8,
    )  # fmt: skip
    unet.set_attn_processor(AttnProcessor())  # twice as fast as SDPA backward for heads this small
    return unet


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


@torch.no_grad()
def contexts(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each distinct caption encoded once ("m 24 96"), and for every picture the row of its caption. Row 0 is the empty text."""
    distinct = ["", *sorted(set(captions) - {""})]
    ids = tokens(tokenizer, distinct)
    table = torch.cat([text_encoder(ids[i : i + 512]).last_hidden_state for i in range(0, len(ids), 512)])
    row = {caption: n for n, caption in enumerate(distinct)}
    return table, torch.tensor([row[caption] for caption in captions])


def train(
    unet: UNet2DConditionModel, moments: torch.Tensor, table: torch.Tensor, caption: torch.Tensor, *,
    steps: int, batch: int = 32, lr: float = 1.2e-3, drop: float = 0.1, gamma: float = 5.0, seed: int,
) -> UNet2DConditionModel:  # fmt: skip
    """Denoising with min-SNR weights (Hang et al. 2023) and text dropped one time in ten (Ho and Salimans 2022).

    Args:
        moments: mean and log variance of the latents, "n 8 16 16".
        table: encoded captions "m 24 96", the empty one first.
        caption: row of `table` for every picture, "n".
    """
    draws = torch.Generator().manual_seed(seed)
    abar = scheduler().alphas_cumprod
    snr = abar / (1 - abar)
    weight = snr.clamp(max=gamma) / snr

    def loss(step: int) -> torch.Tensor:
        rows = torch.randint(len(moments), (batch,), generator=draws)
        t = torch.randint(len(abar), (batch,), generator=draws)
        shape = (batch, *moments.shape[2:])
        mean, log_variance = moments[rows].chunk(2, dim=1)
        x = mean + (log_variance / 2).exp() * torch.randn((shape[0], 4, *shape[1:]), generator=draws)
        noise = torch.randn(x.shape, generator=draws)
        kept = torch.rand(batch, generator=draws) >= drop
        a = abar[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, table[caption[rows] * kept]).sample
        return (weight[t] * (guess.float() - noise).pow(2).mean((1, 2, 3))).mean()

    descend(
        loss, list(unet.parameters()), steps=steps, lr=lr, schedule="cosine", clip=1.0, generator=draws, title="unet", weight_decay=0.01
    )
    return unet.eval()
