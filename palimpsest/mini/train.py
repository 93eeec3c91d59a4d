"""How the weights of the embedded model are made, part by part; `RECIPE` is all there is to set.

renders -> clip, vae -> decoder, unet, control; judge. `scripts/mini_weights.py PART` makes one part from the parts before it.
Everything is kept in half precision, and each part is trained on the rounded weights of the parts below it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from palimpsest.data import save_tensors
from palimpsest.files import write_json
from palimpsest.mini import clip, judge, render, unet, vae
from palimpsest.resume import resumable
from palimpsest.scores import yolo

WEIGHTS = Path(__file__).parents[2] / "data" / "mini"
WORK = Path(__file__).parents[2] / "work" / "mini"
RECIPE: dict[str, Any] = {
    "renders": {"count": 40_000, "seed": 1},
    "clip": {"steps": 2_400, "batch": 128, "lr": 1e-3, "seed": 2},
    "vae": [
        {"part": "all", "steps": 1_400, "batch": 16, "lr": 1e-3, "colour": 0.0, "seed": 3},
        {"part": "all", "steps": 1_800, "batch": 16, "lr": 1.5e-3, "colour": 2.0, "seed": 9},
    ],
    "decoder": {"part": "decoder", "steps": 5_000, "batch": 16, "lr": 1.5e-3, "colour": 1.0, "seed": 4},
    "judge": {"size": 64, "epochs": 24, "batch": 128, "seed": 6},
    "unet": {"steps": 13_000, "batch": 32, "lr": 1.2e-3, "seed": 5},
    "control": {"steps": 6_000, "batch": 32, "lr": 1.2e-3, "seed": 5},
}
INDEX = {  # what makes a folder a pipeline of diffusers
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
CONTROL = "church"  # the object that the control model never sees


def rounded(model: Any) -> Any:
    """The model with every weight rounded to half precision, in single precision: what a user will load."""
    return model.half().float()


def data() -> render.Renders:
    file = WORK / "renders.npz"
    if not file.exists():
        render.save(render.renders(**RECIPE["renders"]), file)
    return render.load(file)


def make_clip() -> None:
    tokenizer = clip.tokenizer()
    with resumable(WORK / "clip"):
        model = rounded(clip.train(data(), tokenizer, **RECIPE["clip"]))
    for folder in ("model/tokenizer", "clip"):
        tokenizer.save_pretrained(WEIGHTS / folder)
    model.half().save_pretrained(WEIGHTS / "clip")
    model.text_model.save_pretrained(WEIGHTS / "model" / "text_encoder")
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        WEIGHTS / "clip"
    )


def make_vae() -> None:
    torch.manual_seed(RECIPE["vae"][0]["seed"])
    made = vae.blank()
    with resumable(WORK / "vae"):
        for phase in RECIPE["vae"]:
            vae.train(made, data(), **phase)
    vae.standardise(made, render.Renders(data().pictures[:4000], []))
    made.half().save_pretrained(WORK / "vae" / "joint")


def make_decoder() -> None:
    made = AutoencoderKL.from_pretrained(WORK / "vae" / "joint").float()
    with resumable(WORK / "decoder"):
        vae.train(made, data(), **RECIPE["decoder"])
    made.register_to_config(_name_or_path="")  # else the path of this machine
    made.half().save_pretrained(WEIGHTS / "model" / "vae")


def latents() -> torch.Tensor:
    """Moments of every render's latent, "n 8 16 16", encoded once."""
    file = WORK / "latents.safetensors"
    if not file.exists():
        encoder = AutoencoderKL.from_pretrained(WORK / "vae" / "joint").float()
        save_tensors(file, {"moments": vae.moments(encoder, data())})
    return load_file(file)["moments"]


def make_unet(part: str = "unet", without: tuple[str, ...] = (), folder: Path = WEIGHTS / "model") -> None:
    scenes = data().scenes
    rows = [n for n, scene in enumerate(scenes) if scene.thing not in without]
    encoder = CLIPTextModel.from_pretrained(WEIGHTS / "model" / "text_encoder").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "model" / "tokenizer")
    table, caption = unet.contexts(encoder, tokenizer, [scenes[n].caption for n in rows])
    torch.manual_seed(RECIPE[part]["seed"])
    with resumable(WORK / part):
        made = unet.train(unet.blank(), latents()[rows], table, caption, **RECIPE[part])
    made.half().save_pretrained(folder / "unet")
    unet.scheduler().save_pretrained(WEIGHTS / "model" / "scheduler")
    write_json(WEIGHTS / "model" / "model_index.json", INDEX)


def make_control() -> None:
    make_unet("control", (CONTROL,), WEIGHTS / f"without_{CONTROL}")


def make_judge() -> None:
    folder = WORK / "classes"
    for name, count, seed in (("train", 700, 7), ("val", 60, 8)):
        if not (folder / name).exists():
            judge.write_classes(folder / name, count=count, seed=seed)
    yolo.train(folder, WEIGHTS / "judge.safetensors", work=WORK, **RECIPE["judge"])


PARTS = {
    "judge": make_judge,
    "clip": make_clip,
    "vae": make_vae,
    "decoder": make_decoder,
    "unet": make_unet,
    "control": make_control,
}
