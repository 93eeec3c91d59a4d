"""Tiny random pipelines of the real classes, one for each family, with tokenizers of the real kinds and vocabulary sizes."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

WORDS = ("church", "object", "tree", "photo", "castle", "dog", "snow", "in", "of", "the", "a")  # each a token
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of Stable Diffusion 1, 2 and XL
SPECIAL = ("<|startoftext|>", "<|endoftext|>")  # 49406 and 49407, as in CLIP's own vocabulary


def clip_tokenizer(pad: str = SPECIAL[1]) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's 49408 places: letters alone, the words above in one token, and what no text is read as."""
    merges: dict[str, None] = {}
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges[f"{parts[0]} {parts[1]}"] = None
            parts[:2] = ["".join(parts[:2])]
    letters = [*string.punctuation, *string.digits, *string.ascii_lowercase]
    read = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    names = [*dict.fromkeys(read), *(f"<unread {n}>" for n in range(49406))][:49406]
    vocabulary = {name: n for n, name in enumerate([*names, *SPECIAL])}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges], pad_token=pad, model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """Unigrams: the words above in one token, and letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return T5Tokenizer(vocab=[*pieces, *((letter, -3.0) for letter in string.ascii_letters + string.punctuation)], model_max_length=512)


def clip(width: int = 32, projection: int = 24, **more: Any) -> Any:
    """A text encoder of CLIP, with its projection where `whole`."""
    whole = more.pop("whole", False)
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, projection_dim=projection,
        bos_token_id=49406, **{"eos_token_id": 49407, **more},
    )  # fmt: skip
    return (CLIPTextModelWithProjection if whole else CLIPTextModel)(config)


def t5(width: int) -> T5EncoderModel:
    config = T5Config(vocab_size=200, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    return T5EncoderModel(config)


def vae(channels: int = 4, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=channels, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=64, mid_block_add_attention=False, **more,
    )  # fmt: skip


def unet(width: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2, cross_attention_dim=width, norm_num_groups=4, **more,
    )  # fmt: skip


def stable(text_encoder: Any, pad: str = SPECIAL[1], said: str = "epsilon", **more: Any) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=said)
    return StableDiffusionPipeline(
        vae(scaling_factor=0.18215),
        text_encoder,
        clip_tokenizer(pad),
        unet(32, **more),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )


def sd14() -> StableDiffusionPipeline:
    return stable(clip(eos_token_id=2))  # as its published configuration has it


def sd20() -> StableDiffusionPipeline:
    """OpenCLIP: another activation, and texts filled up with "!"."""
    return stable(clip(hidden_act="gelu", pad_token_id=1), pad="!", use_linear_projection=True)


def sd20v() -> StableDiffusionPipeline:
    """At 768 pixels: v-prediction."""
    return stable(clip(hidden_act="gelu", pad_token_id=1), pad="!", said="v_prediction", use_linear_projection=True)


def sdxl() -> StableDiffusionXLPipeline:
    network = unet(
        32 + 40, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 24,
        use_linear_projection=True,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
    second = clip(40, whole=True, hidden_act="gelu")
    return StableDiffusionXLPipeline(
        vae(scaling_factor=0.13025), clip(), second, clip_tokenizer(), clip_tokenizer("!"), network, scheduler, add_watermarker=False
    )


def pixart() -> PixArtAlphaPipeline:
    network = PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, num_layers=2, cross_attention_dim=24, sample_size=16, caption_channels=128
    )
    return PixArtAlphaPipeline(t5_tokenizer(), t5(128), vae(scaling_factor=0.18215), network, DPMSolverMultistepScheduler())


def sd3() -> StableDiffusion3Pipeline:
    network = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=128,
        caption_projection_dim=16, pooled_projection_dim=48, out_channels=16, pos_embed_max_size=8,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        network, FlowMatchEulerDiscreteScheduler(shift=3.0), vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
        use_post_quant_conv=False), clip(whole=True), clip_tokenizer(), clip(40, whole=True, hidden_act="gelu"), clip_tokenizer("!"),
        t5(128), t5_tokenizer(),
    )  # fmt: skip


PIPELINES: dict[str, Callable[[], Any]] = {"sd14": sd14, "sd20": sd20, "sd20v": sd20v, "sdxl": sdxl, "pixart": pixart, "sd3": sd3}


def random_pipeline(name: str, seed: int = 0) -> Any:
    """A pipeline of random weights, all of them far enough from zero that everything it is told matters."""
    torch.manual_seed(seed)
    pipe = PIPELINES[name]()
    draws = torch.Generator().manual_seed(seed)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
            for p in part.parameters():
                p += 0.05 * torch.randn(p.shape, generator=draws)
    pipe.set_progress_bar_config(disable=True)
    return pipe
