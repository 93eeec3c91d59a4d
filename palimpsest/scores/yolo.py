"""YOLOv8-cls (ultralytics, AGPL-3.0) as a judge of objects: training and scoring. The only file that needs ultralytics.

Dark Miner counts a picture as showing the erased object when a YOLOv8 classifier says so with p > 0.5 (arXiv 2409.17682, Section 4).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from palimpsest.data import Images, Scores, to_picture
from palimpsest.scores import there
from palimpsest.types import Count, hardware

ARCHITECTURE = "yolov8n-cls.yaml"


def train(folder: Path, weights: Path, *, size: int, epochs: int, batch: int, seed: int, work: Path) -> None:
    """Train from scratch on `folder`/train and /val (one folder a class); write safetensors and the class names beside them."""
    from ultralytics import YOLO

    model = YOLO(ARCHITECTURE)
    model.train(
        data=str(folder), imgsz=size, epochs=epochs, batch=batch, seed=seed, device=hardware().type, workers=0, amp=False, pretrained=False,
        optimizer="AdamW", lr0=2e-3, cos_lr=True, auto_augment=None, erasing=0.1, scale=0.85, fliplr=0.5, hsv_h=0.01, hsv_s=0.2, hsv_v=0.2,
        project=str(work), name="yolo", exist_ok=True, plots=False, deterministic=True,
    )  # fmt: skip
    best = YOLO(work / "yolo" / "weights" / "best.pt")  # our own file of a moment ago
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in best.model.state_dict().items()}, weights)
    weights.with_suffix(".json").write_text(json.dumps([best.names[n] for n in sorted(best.names)], indent=1))


@cache
def load(weights: Path) -> tuple[torch.nn.Module, list[str]]:
    """The classifier in evaluation mode, and its class names."""
    from ultralytics.nn.tasks import ClassificationModel

    names = json.loads(there(weights.with_suffix(".json")).read_text())
    model = ClassificationModel(ARCHITECTURE, nc=len(names), verbose=False)
    state = load_file(there(weights))
    model.load_state_dict({name: value.to(model.state_dict()[name].dtype) for name, value in state.items()})
    return model.to(hardware()).eval(), names


def ready(weights: str) -> None:
    load(Path(weights))


@torch.no_grad()
def probabilities(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Class probabilities "n classes" for pictures "n 3 h w" in [0, 1]."""
    return torch.cat([model(part.to(hardware()))[0].cpu() for part in pixels.split(128)])


def cut(pixels: torch.Tensor, size: int | None) -> torch.Tensor:
    """Pictures "n 3 h w" in [-1, 1] as the classifier takes them, in [0, 1]; brought to `size` as ultralytics does where it examines."""
    if size is None:
        return pixels / 2 + 0.5
    from ultralytics.data.augment import classify_transforms

    transforms = classify_transforms(size)
    return torch.stack([transforms(to_picture(one)) for one in pixels])


def score(images: Images, reference: Images | None, *, weights: str, size: Count | None = None) -> Scores:
    """Column `objects`, "n classes": the probability of every class for every picture.

    Args:
        weights: safetensors of the classifier, its class names beside it as JSON.
        size: of the pictures that it was trained on, in pixels: the shorter side is brought to it and the middle taken; null: as they are.
    """
    model, names = load(Path(weights))
    column = torch.cat([probabilities(model, cut(pixels, size)) for pixels in images.batches()])
    return Scores({"objects": column}, {"objects": names})
