"""`load`: a model with erasures applied. The only file that imports diffusers' pipelines; families/ says what differs between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from palimpsest import edits, families, missing
from palimpsest.diffusion import guided
from palimpsest.types import Model, Reader, hardware

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # diffusers' class, and what must hold where a checkpoint's own sampler says nothing
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}),
}
PARTS, NUMBERED = ("text_encoder", "tokenizer"), ("", "_2", "_3")  # as diffusers' pipelines call them
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def load(base: dict[str, Any], *erasures: edits.Erasure, device: str | None = None) -> Model:
    """The model of a params entry `bases.<name>` with erasures applied, in evaluation mode, its weights frozen.

    Args:
        base: `path` (a folder, a name on the hub, or a checkpoint in one safetensors file, with `config`: the folder or the name on the hub
            of the model that it is built like), and optionally `revision`, `variant`, `unet` (a folder with another network),
            `attention` ("vanilla" for diffusers' plain processor), `precision` ("fp32", or "bf16": the network computes in bfloat16),
            `family` (a file of families/; the model must be of it), `sampler` (of SAMPLERS; the family's own), `channels_last` (how
            pictures lie in the network's memory: faster, and rounded otherwise).
        erasures: applied in order.

    Raises:
        FileNotFoundError: nothing that can be read is there; the message says what to do.
        ValueError: the base asks for what its family, its checkpoint or the device does not have.
    """
    where, half = torch.device(device or hardware()), base.get("precision") == "bf16"
    if half and where.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"precision: {torch.cuda.get_device_name()} has no bfloat16; say `precision: fp32` for this base in params.yaml")
    with border(base):
        pipe = opened(base)
    model = adapted(pipe, base.get("sampler"))._replace(half=half)
    if base.get("family", model.family) != model.family:
        raise ValueError(f"family: {base['path']} is of the family {model.family}, not {base['family']}; say so in params.yaml")
    for part in (model.unet, model.vae, *(reader.text_encoder for reader in model.readers)):
        part.to(where).eval().requires_grad_(False)
    if base.get("channels_last"):
        model.unet.to(memory_format=torch.channels_last)
    if base.get("attention") == "vanilla":
        plain_attention(model)
    for erasure in erasures:
        model = edits.apply(model, erasure)
    return model


def drawing(base: dict[str, Any], *erasures: edits.Erasure, compiled: bool = False, device: str | None = None) -> Model:
    """As `load`, for a process that draws and trains nothing.

    With `precision: bf16` the erased weights themselves are rounded, where `load` keeps them and rounds as it computes: half the memory and
    fewer conversions, and pictures that differ by rounding.

    Args:
        compiled: network and decoder by torch.compile, for the one size of batch that `diffusion.draw` takes. The first batch waits for it.
    """
    model = load(base, *erasures, device=device)
    for part in (model.unet, model.vae) if model.half else ():
        torch.nn.Module.to(part, torch.bfloat16)  # diffusers' own warns, of layers that should not be rounded, where there are none too
    if compiled:
        model.unet.compile()
        model.vae.decoder.compile()
    return model


def plain_attention(model: Model) -> None:
    """Diffusers' plain attention processor in all layers.

    Raises:
        ValueError: the family's attention is none of that kind.
    """
    from diffusers.models.attention_processor import AttnProcessor

    if why := families.lacks(model, "cross-attention"):
        raise ValueError(f"attention: 'vanilla' is for layers that look at one thing at a time: {why}; leave the field out")
    model.unet.set_attn_processor(AttnProcessor())


def opened(base: dict[str, Any]) -> Any:
    """The stock pipeline of a base, from safetensors alone, in float32."""
    import diffusers

    path, config = base["path"], base.get("config")
    if path.endswith(PICKLED):
        raise ValueError(f"path: {path} is a pickle, which may run anything; name a .safetensors file of the same checkpoint")
    single = path.endswith(".safetensors")
    if single and config is None:
        raise ValueError(f"path: {path} does not say how it is built; add `config:`, such as CompVis/stable-diffusion-v1-4 or a folder")
    if not Path(path).exists() and (single or path.startswith(("data/", "/", ".")) or path.count("/") != 1):
        raise FileNotFoundError(f"{path}: no such model; `bases` in params.yaml names a folder, a model on the hub or a .safetensors file")
    revision = {"revision": base.get("revision")}
    name = diffusers.DiffusionPipeline.load_config(config if single else path, **revision)["_class_name"]
    family = families.named(families.drawn_by(name))
    made = getattr(diffusers, name)
    if single:
        pipe = made.from_single_file(path, config=config, dtype=torch.float32, **revision, **family.EXTRAS)
    else:
        more = {"variant": base.get("variant"), "use_safetensors": True, **family.EXTRAS}
        pipe = made.from_pretrained(path, dtype=torch.float32, **revision, **more)
    if "unet" in base:
        network = type(getattr(pipe, family.NETWORK)).from_pretrained(base["unet"], dtype=torch.float32)
        pipe.register_modules(**{family.NETWORK: network})
    for key, value in family.EXPECTS.items():
        if pipe.config.get(key, value) != value:
            raise ValueError(f"path: {path} says {key} {pipe.config[key]}, palimpsest draws with {value} alone; take another checkpoint")
    return pipe


@contextmanager
def border(base: dict[str, Any]) -> Iterator[None]:
    """What diffusers and the hub's client say at length, in one line with the remedy."""
    from huggingface_hub import errors
    from safetensors import SafetensorError

    path, source = base["path"], base.get("config", base["path"])
    try:
        yield
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError, SafetensorError) as error:
        said = " ".join(str(error).split())
        if Path(source).exists() or isinstance(error, SafetensorError) or said.startswith(f"{path}: "):
            raise FileNotFoundError(said if said.startswith(f"{path}: ") else f"{path}: {said}") from None
        at = f" at {base['revision']}" if base.get("revision") else ""
        raise FileNotFoundError(f"{source}{at} {missing.model(error)}") from None


def adapted(pipe: Any, sampler: str | None = None) -> Model:
    """The model of a stock pipeline, with a sampler of SAMPLERS; None is the family's own.

    Raises:
        ValueError: the sampler does not go with the family, or the network says what palimpsest does not know.
    """
    import diffusers

    name = families.drawn_by(type(pipe).__name__)
    family, config = families.named(name), pipe.scheduler.config
    known = [key for key in SAMPLERS if (key == "flow") == (family.SAMPLER == "flow")]
    if (sampler or family.SAMPLER) not in known:
        raise ValueError(f"sampler: {sampler!r} does not go with {family.PIPELINE}; it takes {', '.join(known)}")
    if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise ValueError(f"the network predicts {config['prediction_type']!r}, palimpsest takes epsilon and v_prediction")
    kind, settings = SAMPLERS[sampler or family.SAMPLER]
    first, *others = readers(pipe, family.LENGTHS)
    scheduler = getattr(diffusers, kind).from_config(config, **settings)
    return Model(getattr(pipe, family.NETWORK), *first, pipe.vae, scheduler, guided, family=name, others=tuple(others))


def readers(pipe: Any, lengths: dict[int, int]) -> list[Reader]:
    """The text encoders of a pipeline with their tokenizers, where the family says so of another length.

    Raises:
        ValueError: one is missing, or so are the files of its tokenizer, which then knows next to no words.
    """
    found = [Reader(*(getattr(pipe, part + n) for part in PARTS)) for n in NUMBERED if f"{PARTS[0]}{n}" in pipe.components]
    if any(None in reader for reader in found):
        raise ValueError(
            "path: a text encoder or its tokenizer is left out, and palimpsest draws with all of them; take another checkpoint"
        )
    for n, reader in enumerate(found):
        known, wanted = len(reader.tokenizer), reader.text_encoder.config.vocab_size
        if 2 * known < wanted:
            raise ValueError(f"path: a tokenizer knows {known} tokens, its text encoder {wanted}: files of the tokenizer are missing there")
        reader.tokenizer.model_max_length = lengths.get(n, reader.tokenizer.model_max_length)
    return found


def pipeline(model: Model) -> Any:
    """The stock diffusers pipeline of a model, for export and comparison."""
    import diffusers

    family = families.of(model)
    parts = {family.NETWORK: model.unet, "vae": model.vae, "scheduler": model.scheduler}
    for n, reader in zip(NUMBERED, model.readers, strict=False):
        parts |= {part + n: it for part, it in zip(PARTS, reader, strict=True)}
    return getattr(diffusers, family.PIPELINE)(**parts, **family.EXTRAS)


def factors(model: Model, erasure: edits.Erasure) -> dict[str, torch.Tensor]:
    """Low-rank factors under the names that the stock pipeline's `load_lora_weights` reads."""
    return {key.replace("unet.", f"{families.of(model).NETWORK}.", 1): value for key, value in erasure.tensors.items()}
