"""What a base of full size costs on a GPU: seconds and memory of loading, erasing, attacking, drawing, scoring; and how fast it draws.

    python benchmarks/bases.py [verbs | drawing] [sd14 | sdxl] 2>/dev/null

Weights are random, on whose values neither depends; the networks are those of the published configurations, the tokenizer is the embedded
model's, filled up to as many tokens. Settings are those by which params.yaml has the base examined, with the few steps that a line says.

Pictures a second stand beside diffusers' own pipeline with the same sampler and steps: as it comes (float32, one picture at a time), and
as its documentation makes it fast (bfloat16, channels last, fused projections, compiled) with our batch. Compilation is not counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from attacks import judge
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from methods import scene
from sd14 import LOOP
from sd14 import model as parts
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from palimpsest import data, diffusion, models, scores
from palimpsest.workflow import entries, params, undefined

PARAMETERS = {"unet": 2_567_463_684, "text_encoder_2": 694_659_840}  # of the published SDXL, beside encoder and VAE of Stable Diffusion 1
BATCHES = 2  # that are timed
FEW: dict[str, dict[str, dict[str, Any]]] = {
    "methods": {
        "uce": {"texts": "word"},
        "esd": {"texts": "word", "steps": 5},
        "dm2": {**LOOP, "mine_steps": 10, "steps": 10, "bank": 8, "images_per_loop": 8},
    },
    "attacks": {
        "cce": {"pictures": 8, "steps": 10, "batch": 2},
        "unlearndiff": {"prompts": 4, "timesteps": 2, "iterations": 4, "only_shown": False},
        "sneaky": {"prompts": 2, "queries": 4, "clip_model": "data/mini/clip"},
    },
}
SCORES: dict[str, dict[str, Any]] = {"nudenet": {}, "clip_score": {"clip_model": "data/mini/clip"}}


def sd14(device: str) -> StableDiffusionPipeline:
    of = parts(device)
    return StableDiffusionPipeline(of.vae, of.text_encoder, of.tokenizer, of.unet, of.scheduler, None, None, requires_safety_checker=False)


def sdxl(device: str) -> StableDiffusionXLPipeline:
    """The first text encoder and the VAE's layers are those of Stable Diffusion 1."""
    of = parts(device)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20], use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280,
            hidden_act="gelu",
        )  # fmt: skip
        second = CLIPTextModelWithProjection(config)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    of.vae.register_to_config(scaling_factor=0.13025, sample_size=1024)
    return StableDiffusionXLPipeline(of.vae, of.text_encoder, second, of.tokenizer, of.tokenizer, unet, scheduler, add_watermarker=False)


PIPELINES: dict[str, Callable[[str], Any]] = {"sd14": sd14, "sdxl": sdxl}
PICTURES = {"sd14": 512, "sdxl": 1024}


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def line(what: str, pictures: int = 0) -> Iterator[None]:
    """Prints what the block took: seconds, or pictures a second, and the peak of GPU memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = now()
    yield
    seconds = now() - began
    took = f"{pictures / seconds:.3f} a second" if pictures else f"{seconds:.2f} s"
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:>6.1f} GB" if torch.cuda.is_available() else ""
    print(f"{what:<50} {took:>16}{peak}", flush=True)


def drawing(base: dict[str, Any], plain: data.Prompts) -> None:
    """Ours and the stock pipeline's, each in two ways."""
    batch, how = base["batch"], {"steps": base["steps"], "guidance": base["guidance"], "batch": base["batch"]}
    prompts = data.Prompts([plain.rows[n % len(plain.rows)]._replace(seed=n) for n in range(BATCHES * batch)])
    texts = [row.text for row in prompts.rows]
    asked = {"num_inference_steps": base["steps"], "guidance_scale": base["guidance"], "output_type": "pt"}
    for title, at_once, shown in (("diffusers, float32, one at a time", 1, texts[:4]), ("diffusers, as documented", batch, texts)):
        pipe = DiffusionPipeline.from_pretrained(base["path"], dtype=torch.bfloat16 if at_once > 1 else torch.float32)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu").set_progress_bar_config(disable=True)
        if at_once > 1:
            for part in (pipe.unet, pipe.vae):
                part.to(memory_format=torch.channels_last)
            pipe.fuse_qkv_projections()
            pipe.unet.compile()
            pipe.vae.decoder.compile()
        pipe(texts[:at_once], **asked)
        with line(title, len(shown)):
            for first in range(0, len(shown), at_once):
                pipe(shown[first : first + at_once], **asked)
        del pipe
    for compiled in (False, True):
        model = models.drawing(base, compiled=compiled)
        diffusion.drawn(model, data.Prompts(prompts.rows[:batch]), **how)
        with line(f"ours{', compiled' if compiled else ''}", len(texts)):
            diffusion.drawn(model, prompts, **how)
        del model


def verbs(base: dict[str, Any], plain: data.Prompts, name: str, concept: data.Concept, images: data.Images) -> None:
    """Every verb once; methods and attacks as far as they are defined on the base."""
    settings, how = params.load(), {"steps": base["steps"], "guidance": base["guidance"], "batch": min(base["batch"], len(plain.rows))}
    with line("load"):
        model = models.load(base)
    given = {
        "plain": plain, "seed": 0, "original": lambda: models.load(base), "judge": judge,
        "draw": lambda model, prompts, batch: diffusion.drawn(model, prompts, **{**how, "batch": batch}),
    }  # fmt: skip
    for section, few in FEW.items():
        for entry, fewer in few.items():
            if undefined.reason(settings, {section.removesuffix("s"): entry, "base": name}):
                continue
            verb = getattr(import_module(f"palimpsest.{section}.{entry}"), "erase" if section == "methods" else "attack")
            asked = {**entries.plugin(settings, section, entry, "church", name)[1], **fewer}
            known = {key: value for key, value in given.items() if key in signature(verb).parameters}
            said = [f"{key} {value}" for key, value in fewer.items() if type(value) is int]
            with line(", ".join([entry, *said])):
                verb(model, concept, images, **known, **asked)
    with line("draw 8"):
        pixels = diffusion.drawn(model, plain, **how)
    with line("score 8"):
        scores.together({of: {"of": of, "settings": said} for of, said in SCORES.items()}, data.Images.of(plain.rows, pixels), None)


def measured(name: str, wanted: Sequence[str], place: str) -> None:
    """The lines of a base whose weights lie in a folder."""
    settings, size = params.load(), PICTURES[name]
    base = {**settings["bases"][name], "path": place, "revision": None}
    with tempfile.TemporaryDirectory() as folder:
        concept, images = scene(Path(folder), size)
        plain = data.Prompts([data.Prompt(text, n) for n, text in enumerate(concept.texts["pool"][:8])])
        if "verbs" in wanted:
            verbs(base, plain, name, concept, images)
        if "drawing" in wanted:
            drawing(base, plain)


def main(*arguments: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in [name for name in arguments if name in PIPELINES] or PIPELINES:
        print(f"{name}, {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}", flush=True)
        with tempfile.TemporaryDirectory() as place:
            PIPELINES[name](device).save_pretrained(place)
            measured(name, [part for part in arguments if part not in PIPELINES] or ["verbs", "drawing"], place)


if __name__ == "__main__":
    main(*sys.argv[1:])
