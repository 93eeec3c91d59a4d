"""The card of the embedded model: what it is, how it was made, how good it is; card.md is its form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palimpsest import models
from palimpsest.files import write_json
from palimpsest.mini import examine, world
from palimpsest.mini.train import CONTROL, RECIPE, WEIGHTS

NEEDED = {"objects": 90, "styles": 90, **dict.fromkeys(examine.CONCEPTS, 75)}


def line(name: str, value: Mapping[str, float], needed: float | None) -> str:
    goal = "" if needed is None else f"{needed:g}"
    return f"| {name} | {value['percent']:.1f} | {value['low']:.1f} to {value['high']:.1f} | {value['n']:.0f} | {goal} |"


def table(quality: Mapping[str, Any]) -> str:
    rows = ["| what | right % | interval | n | goal |", "|---|---:|---:|---:|---:|"]
    rows += [line(f"judge, held-out renders: {name}", value, 97 if name == "objects" else None) for name, value in quality["judge"].items()]
    rows += [line(f"model: {name}", value, NEEDED[name]) for name, value in quality["model"].items() if name != "things"]
    rows += [line(f"control: {name}", quality["control"][name], None) for name in ("objects", "styles") if "control" in quality]
    return "\n".join(rows)


def measure(base: Mapping[str, Any], styles: Mapping[str, str]) -> dict[str, Any]:
    """Judge, model and, where it is there, control.

    Args:
        base: the entry of params.yaml that samples from the model.
        styles: what each style's text is, for the style classifier.
    """
    weights, eye = WEIGHTS / "judge.safetensors", str(WEIGHTS / "clip")
    quality = {"judge": examine.judge_quality(weights, count=1000, seed=90_000)}
    asked: dict[str, Any] = {"count": 1040, "seed": 91_000, **{name: base[name] for name in ("steps", "guidance", "batch")}}
    quality["model"] = examine.model_quality(models.load(dict(base)), weights, eye, styles, **asked)
    control = WEIGHTS / f"without_{CONTROL}" / "unet"
    if control.exists():
        model = models.load({**base, "unet": str(control)})
        quality["control"] = examine.model_quality(model, weights, eye, styles, without=(CONTROL,), **{**asked, "count": 250})
    return quality


def make(base: Mapping[str, Any], styles: Mapping[str, str]) -> None:
    """Write quality.json and CARD.md."""
    quality = measure(base, styles)
    write_json(WEIGHTS / "quality.json", quality)
    files = sorted(file for part in ("model", "clip", f"without_{CONTROL}", "judge.*") for file in found(WEIGHTS, part))
    recipe = "".join(f"{name}: {settings}\n" for name, settings in RECIPE.items())
    things = sorted(quality["model"]["things"].items(), key=lambda item: item[1])
    text = Path(__file__).with_name("card.md").read_text().format(
        things=len(world.THINGS), backgrounds=len(world.BACKGROUNDS), styles=len(world.STYLES), control=CONTROL,
        renders=RECIPE["renders"]["count"], sampler=f"{base['steps']} steps of DDIM at guidance {base['guidance']}",
        megabytes=sum(file.stat().st_size for file in files) / 1e6, quality=table(quality),
        by_thing=", ".join(f"{name} {percent:.0f}" for name, percent in things), recipe=recipe,
    )  # fmt: skip
    (WEIGHTS / "CARD.md").write_text(text)


def found(folder: Path, part: str) -> list[Path]:
    return [file for path in folder.glob(part) for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
