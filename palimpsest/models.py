"""`load`: a model with erasures applied. The only file that imports diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from palimpsest import edits
from palimpsest.diffusion import guided
from palimpsest.types import Model


def load(base: dict[str, Any], *erasures: edits.Erasure, device: str | None = None) -> Model:
    """The model of a params entry `bases.<name>` with erasures applied, in evaluation mode, its weights frozen.

    Args:
        base: `path` (a folder, or a name on the hub), and optionally `revision`, `variant`, `unet` (a folder with another UNet), and
            `attention` ("vanilla" for diffusers' plain processor), `precision` ("fp32", or "bf16": the UNet computes in bfloat16).
        erasures: applied in order.

    Raises:
        FileNotFoundError: neither a folder nor a model on the hub is there; the message says what to do.
        ValueError: the device has no bfloat16.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    path = base["path"]
    if not Path(path).exists() and (path.startswith(("data/", "/", ".")) or path.count("/") != 1):
        raise FileNotFoundError(f"{path}: no such model; `bases` in params.yaml names a folder or a model on the hub")
    where, half = device or ("cuda" if torch.cuda.is_available() else "cpu"), base.get("precision") == "bf16"
    if half and where.startswith("cuda") and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"precision: {torch.cuda.get_device_name()} has no bfloat16; say `precision: fp32` for this base in params.yaml")
    source = {"revision": base.get("revision"), "variant": base.get("variant")}
    pipe = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, **source)
    if "unet" in base:
        pipe.unet = UNet2DConditionModel.from_pretrained(base["unet"], dtype=torch.float32)
    model = Model(pipe.unet, pipe.text_encoder, pipe.tokenizer, pipe.vae, DDIMScheduler.from_config(pipe.scheduler.config), guided, half)
    for part in (model.unet, model.text_encoder, model.vae):
        part.to(where).eval().requires_grad_(False)
    if base.get("attention") == "vanilla":
        from diffusers.models.attention_processor import AttnProcessor

        model.unet.set_attn_processor(AttnProcessor())
    for erasure in erasures:
        model = edits.apply(model, erasure)
    return model


def pipeline(model: Model) -> Any:
    """The stock diffusers pipeline of a model, for export and comparison."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer, unet=model.unet, scheduler=model.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
