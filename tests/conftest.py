"""A tiny random model of the real classes, a concept, and a few pictures of the little world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palimpsest import data, models, optimise, pieces, resume
from palimpsest.diffusion import guided
from palimpsest.methods import ca
from palimpsest.mini import unet as mini_unet
from palimpsest.mini import world
from palimpsest.prompts import grammar
from palimpsest.types import Model
from palimpsest.workflow import entries

TOP = Path(__file__).parents[1]
MINI = {"path": str(TOP / "data/mini/model"), "attention": "vanilla"}
LONG = ("test_contract.py", "test_workflow.py")  # begun first: at the end one process would wait for them
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


class Killed(Exception):
    pass


def dying(at: int | None) -> Callable[..., optimise.Log]:
    """`descend` with a checkpoint behind every step, killed where it would begin this one."""

    def descend(loss: Callable[[int], torch.Tensor], *given: Any, **settings: Any) -> optimise.Log:
        def watched(step: int) -> torch.Tensor:
            if step == at:
                raise Killed
            return loss(step)

        return optimise.descend(watched, *given, **settings, pause=0)

    return descend


def preset(of: str, name: str, concept: str) -> dict[str, Any]:
    """The settings of a preset for a concept."""
    return entries.resolved({"preset": name}, of, concept)


def random_model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(TOP / "data/mini/model/tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2, cross_attention_dim=32, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 8),
        layers_per_block=1, norm_num_groups=4, sample_size=64, mid_block_add_attention=False, scaling_factor=0.7,
    )  # fmt: skip
    for part in (unet, text, vae):
        part.eval().requires_grad_(False)
    return Model(unet, text, tokenizer, vae, mini_unet.scheduler(), guided)


@pytest.fixture
def tiny() -> Model:
    return random_model()


@pytest.fixture(scope="session")
def mini() -> Model:
    return models.load(MINI)


@pytest.fixture(scope="session")
def concept() -> data.Concept:
    fields = {
        "name": "church", "kind": "object", "words": ["church"], "adjective": "church", "anchor": "a tree", "initialiser": "object",
        "classes": ["church"], "near": ["castle"], "sensitive": False,
    }  # fmt: skip
    plain = data.Concept.of(fields)
    lists = grammar.prompts(plain, seed=0, concept_prompts=4, other_prompts=6, train_texts=10)
    return data.Concept.of(fields, {name: value for name, value in lists.items() if name != "plain"})


@pytest.fixture(scope="session")
def plain(concept: data.Concept) -> data.Prompts:
    return data.Prompts(grammar.prompts(concept, seed=0, concept_prompts=4, other_prompts=6, train_texts=10)["plain"])


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> data.Images:
    manifest = tmp_path_factory.mktemp("pool") / "manifest.json"
    rng = np.random.default_rng(0)
    scenes = [world.Scene("church", "field", "plain", "", "a photo of a church in a field") for _ in range(6)]
    rows = [data.Prompt(s.caption, n) for n, s in enumerate(scenes)]
    pixels = [data.to_tensor(world.render(s, rng)) for s in scenes]
    rows += [row._replace(text=row.text.replace("a church", "a tree"), seed=100 + row.seed) for row in rows]  # anchors, then clean ones
    others = [world.Scene("tree", "field", "plain", "", "a photo of a tree in a field") for _ in range(6)]
    pixels += [data.to_tensor(world.render(s, rng)) for s in others]
    clean = [row._replace(seed=row.seed - 100) for row in rows[6:]]  # of the pool pictures that they are redrawn from
    return on_disk(manifest, [*rows, *clean], [*pixels, *pixels[6:]], ["pool"] * 6 + ["anchor"] * 6 + ["clean"] * 6)


def on_disk(manifest: Path, rows: Sequence[data.Prompt], pixels: Sequence[torch.Tensor], roles: Sequence[str] = ()) -> data.Images:
    """Pictures "3 h w" in [-1, 1] as the scripts write them."""
    with resume.resumable(manifest.parent / "work") as kept:
        pieces.pictures(manifest, rows, lambda piece: pixels[piece], {}, kept=kept, batch=len(rows), roles=roles or ["pool"] * len(rows))
    return data.Images.load(manifest)


@pytest.fixture
def double(images: data.Images, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64: Adam's first steps are signs of gradients, and make much of a rounding where one is nearly zero."""
    read = data.to_tensor
    for module in (data, ca):
        monkeypatch.setattr(module, "to_tensor", lambda picture: read(picture).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def state() -> Callable[[Model], dict[str, torch.Tensor]]:
    """A copy of every weight of a model."""

    def copied(model: Model) -> dict[str, torch.Tensor]:
        parts = {"unet": model.unet, "text_encoder": model.text_encoder, "vae": model.vae}
        return {f"{part}.{name}": value.clone() for part, module in parts.items() for name, value in module.state_dict().items()}

    return copied
