"""Seconds and memory of methods at the size of Stable Diffusion 1.4, on a GPU.

    python benchmarks/sd14.py [--fp32] [CASE...] 2>/dev/null

The model has random weights, on whose values neither speed nor memory depends; its configurations are those of
CompVis/stable-diffusion-v1-4, and the tokenizer is the embedded model's, filled up. Settings are the presets with few steps.
A line for each stage, seconds a step; then what a run comes to with the preset's steps, in hours, and the peak of GPU memory in GB.
DM2's hours are those of the paper's 48 loops; the paper says 59.3 on an A100.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from methods import Case, Stage, few, scene, timed
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palimpsest.data import Concept, Images
from palimpsest.diffusion import guided
from palimpsest.types import Model
from palimpsest.workflow import entries

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
    words.add_tokens([f"<{n}>" for n in range(config.vocab_size - len(words))])
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    for part in (unet, vae, text_encoder):
        part.eval().requires_grad_(False)
    return Model(unet, text_encoder, words, vae, scheduler, guided, half)


LOOP = {"max_loops": 1, "tau": -2.0, "clip_model": "data/mini/clip"}  # one loop, whatever its verifier says
CASES = {  # presets
    "dm2": Case("darkminer", (Stage("mine", "mine_steps", 40, 10), Stage("circumvent", "steps", 30, 10)), "", LOOP, "48 loops"),
    "esd": Case("official", (Stage("step", "steps", 30, 10),), ""),
    "salun": Case("official", (Stage("step", "epochs", 12, 2, 12),), ""),  # 96 pictures in batches of 8
    "duo": Case("official", (Stage("step", "steps", 30, 10),), ""),
    "uce": Case("official", (), ""),
}


def measured(name: str, whole: Model, concept: Concept, images: Images) -> None:
    """A method with its preset, and its lines."""
    case, erase = CASES[name], import_module(f"palimpsest.methods.{name}").erase
    defaults = {key: value.default for key, value in inspect.signature(erase).parameters.items()}
    said = entries.resolved({"preset": case.entry}, name, "church") | case.changes
    if whole.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = timed(lambda: erase(whole, concept, images, seed=0, **few(case, said)), case, defaults | said)
    peak = torch.cuda.max_memory_allocated() / 1e9 if whole.device.type == "cuda" else float("nan")
    for stage, seconds in zip(case.stages, times.steps, strict=True):
        print(f"{name:<6} {stage.name:<12} {seconds:>9.4f} s a step")
    print(f"{name:<6} {case.whole:<12} {times.whole * (48 if name == 'dm2' else 1) / 3600:>9.3f} h, {peak:.1f} GB", flush=True)


def main(*arguments: str) -> None:
    half, names = "--fp32" not in arguments, [name for name in arguments if name != "--fp32"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, {'bf16' if half else 'fp32'}", flush=True)
    whole = model(device, half)
    with tempfile.TemporaryDirectory() as folder:
        concept, images = scene(Path(folder), 512)
        for name in names or CASES:
            measured(name, whole, concept, images)


if __name__ == "__main__":
    main(*sys.argv[1:])
