"""`Edit`, the change while it is trained, and `Erasure`, the change when it is done. The only file that knows of PEFT.

`where` is a glob over parameter names as in the model, "unet.*attn2.to_[kv].weight", and after it those to leave out, "!*norm*".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from palimpsest import guidance
from palimpsest.data import save_tensors
from palimpsest.diffusion import encode
from palimpsest.files import write_json
from palimpsest.types import Model

Kind = Literal["nothing", "weights", "lora", "matrix", "guidance"]


@dataclass(frozen=True)
class Erasure:
    """What a method changed. On disk: <name>.json, <name>.safetensors and, with what it found on the way, <name>.found.safetensors.

    nothing: no tensors. weights: the new values, named as in the model. lora: factors under the names that diffusers'
    `load_lora_weights` reads, scale one. matrix: `right`, which multiplies every weight named by `where` from the right. guidance: no
    tensors; `guidance` holds the text to stay away from and the settings of `guidance.safe`.
    """

    kind: Kind
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    where: str = ""
    log: Any = ()
    guidance: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Tensor] = field(default_factory=dict)  # on the way: embeddings, learned words, pictures (uint8 "n 3 h w")

    def save(self, file: Path, record: Mapping[str, Any]) -> None:
        tensors = save_tensors(file.with_suffix(".safetensors"), self.tensors)
        found = save_tensors(file.with_suffix(".found.safetensors"), self.found)
        about = {"kind": self.kind, "where": self.where, "guidance": self.guidance, "record": record}
        write_json(file, {**about, "tensors": tensors, "found": found, "log": self.log})


def load(file: Path) -> Erasure:
    """Read an erasure.

    Raises:
        FileNotFoundError: the tensors beside `file` are missing; ValueError: the erasure was skipped.
    """
    about = json.loads(file.read_text())
    if "skipped" in about:
        raise ValueError(f"{file} holds no erasure, it was skipped: {about['skipped']}; take another method or base")
    tensors = file.with_suffix(".safetensors")
    if not tensors.exists():
        raise FileNotFoundError(f"{tensors} is not there; `dvc pull {tensors}` brings it back")
    return Erasure(about["kind"], load_file(tensors), about["where"], guidance=about.get("guidance", {}))


def parameters(model: Model, where: str) -> dict[str, nn.Parameter]:
    """The parameters whose names match the glob, in the model's order.

    Raises:
        ValueError: none does.
    """
    parts = {"unet": model.unet, "text_encoder": model.text_encoder}
    names = {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}
    wanted, *unwanted = where.split()
    found = {name: p for name, p in names.items() if fnmatchcase(name, wanted)}
    found = {name: p for name, p in found.items() if not any(fnmatchcase(name, pattern[1:]) for pattern in unwanted)}
    if not found:
        raise ValueError(f"no parameter of the model is called {where!r}; one of them is {next(iter(names))!r}")
    return found


@torch.no_grad()
def weights(model: Model, erasure: Erasure) -> dict[str, Tensor]:
    """The new value of every parameter that the erasure changes."""
    if erasure.kind == "weights":
        return dict(erasure.tensors)
    if erasure.kind == "matrix":
        right = erasure.tensors["right"].to(model.device, torch.float32)
        return {name: (p.float() @ right).to(p.dtype) for name, p in parameters(model, erasure.where).items()}
    changed = {}
    for key in [key for key in erasure.tensors if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        weight = model.unet.get_parameter(name.removeprefix("unet.") + ".weight")
        up, down = erasure.tensors[name + ".lora_B.weight"].to(weight), erasure.tensors[key].to(weight)
        changed[name + ".weight"] = weight + up @ down
    return changed


@torch.no_grad()
def apply(model: Model, erasure: Erasure) -> Model:
    """The model with the erasure: its weights changed in place, or with another guidance."""
    if erasure.kind == "guidance":
        settings = dict(erasure.guidance)
        return model._replace(guide=guidance.safe(encode(model, [settings.pop("text")]), **settings))
    for name, value in weights(model, erasure).items():
        part, key = name.split(".", 1)
        getattr(model, part).get_parameter(key).copy_(value)
    return model


class Edit:
    """A trainable change of a model. With the edit on, the model is the student; inside `off()` it is the teacher, as it was on entry."""

    def __init__(self, model: Model, trained: dict[str, nn.Parameter], kind: Kind, aside: bool = False) -> None:
        self.model, self.trained, self.kind = model, trained, kind
        kept = trained if kind == "weights" else {}
        self.original = {name: p.detach().to("cpu" if aside else p.device, copy=True) for name, p in kept.items()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.trained.values())

    @contextmanager
    def off(self) -> Iterator[None]:
        """The teacher: the frozen original, without gradients."""
        with torch.no_grad():
            if self.kind == "lora":
                switch(self.model.unet, False)
                try:
                    yield
                finally:
                    switch(self.model.unet, True)  # PEFT turns requires_grad on again here
            else:
                student = {name: p.data for name, p in self.trained.items()}
                self.swap(self.original)
                try:
                    yield
                finally:
                    self.swap(student)

    def swap(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.trained.items():
            p.data = values[name].to(p.device)

    def erasure(self, log: Any = (), found: Mapping[str, Tensor] | None = None) -> Erasure:
        """The change as it stands now."""
        return Erasure(self.kind, {name: p.detach().cpu().clone() for name, p in self.trained.items()}, log=log, found=found or {})


@contextmanager
def dense(model: Model, where: str, *, aside: bool = False) -> Iterator[Edit]:
    """Train the parameters that `where` names; the model is as it was on leaving, bit for bit.

    Args:
        aside: their values on entry wait in the main memory: for what never asks the teacher.
    """
    edit = Edit(model, parameters(model, where), "weights", aside)
    for p in edit.parameters:
        p.requires_grad_(True)
    try:
        yield edit
    finally:
        edit.swap(edit.original)
        for p in edit.parameters:
            p.requires_grad_(False)


def adapters(network: nn.Module) -> dict[str, Any]:
    """PEFT's layers in a network, by their names. Diffusers' own methods for them are not on every network (PixArt's)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)}


def switch(network: nn.Module, on: bool) -> None:
    for layer in adapters(network).values():
        layer.enable_adapters(on)


@contextmanager
def lora(
    model: Model, where: str, *, rank: int, generator: torch.Generator, start: Literal["uniform", "normal"] = "uniform"
) -> Iterator[Edit]:
    """Train low-rank factors (Hu et al. 2021) of the UNet's weights that `where` names: scale 1 and B = 0.

    Args:
        start: of A, as PEFT has it: U(+-1/sqrt(in)), its default; or N(0, 1/rank^2), its "gaussian".
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = [name.removeprefix("unet.").removesuffix(".weight") for name in parameters(model, where)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), model.unet, "edit")
    factors = {"unet." + name.replace(".edit", ""): p for name, p in model.unet.named_parameters() if ".edit." in name}
    try:
        with torch.no_grad():
            for name, p in factors.items():
                if start == "uniform":  # drawn for B too, whose bound is 0: recorded results hang on this stream
                    p.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) * (p.shape[1] ** -0.5 if "lora_A" in name else 0.0))
                elif "lora_A" in name:
                    p.copy_(torch.randn(p.shape, generator=generator) / rank)
                else:
                    p.zero_()
        yield Edit(model, factors, "lora")
    finally:
        for name, layer in adapters(model.unet).items():
            model.unet.set_submodule(name, layer.get_base_layer())
        del model.unet.peft_config
