"""A model of Stable Diffusion 1.4's size with random weights: speed and memory do not depend on the values.

The configurations are those of CompVis/stable-diffusion-v1-4. Only the tokenizer is the embedded model's, which changes no shape.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palimpsest.diffusion import guided
from palimpsest.types import Model

PARAMETERS = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}  # of the published model


def model(device: str, half: bool = False, tokenizer: str = "data/mini/model/tokenizer") -> Model:
    """The model on a device, frozen; `half` as in `Model`."""
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215,
        )  # fmt: skip
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
            hidden_act="quick_gelu",
        )  # fmt: skip
        text_encoder = CLIPTextModel(config)
    words = CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    for part in (unet, vae, text_encoder):
        part.eval().requires_grad_(False)
    return Model(unet, text_encoder, words, vae, scheduler, guided, half)
