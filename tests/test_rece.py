"""RECE: every round equals the official order of steps, written out layer by layer (tests/plain/rece.py)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, preset
from plain.rece import erase as plain
from torch import Tensor

from palimpsest import edits
from palimpsest.closed_form import WHERE, states
from palimpsest.methods import rece, uce
from palimpsest.types import Model


def said(words: tuple[str, ...], kind: str = "inappropriate") -> Any:
    return SimpleNamespace(words=words, kind=kind)


@pytest.mark.parametrize("words, rounds, rho", [(("church",), 3, 0.1), (("church", "castle"), 2, 0.1), (("church",), 0, 0.1)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"regularisation": "standard"},
        {"regularisation": "standard", "target": "a tree", "rho": 1e-3},
        {"retain": [""], "target": "a tree"},
        {"retain": ["", "a dog"], "lamb": 0.3, "erase_scale": 0.5, "preserve_scale": 0.7, "uce_lamb": 0.2},
        {"uce_retain": ["", "a dog"], "uce_preserve_scale": 0.1},
        {"uce_retain": [], "retain": []},
    ],
    ids=str,
)
def test_rounds_equal_the_plain_ones(tiny: Model, words: Any, rounds: int, rho: float, settings: dict[str, Any]) -> None:
    given = {"rounds": rounds, "rho": rho, **settings}
    made = rece.erase(tiny, said(words), None, seed=0, **given)  # type: ignore[arg-type]
    wanted = plain(tiny, said(words), None, seed=0, **given)  # type: ignore[arg-type]
    for name, value in edits.weights(tiny, made).items():
        torch.testing.assert_close(value.double(), wanted[name], atol=1e-5, rtol=1e-4)


def test_the_empty_text_is_kept_once_or_for_each_word_as_the_three_programs_do(tiny: Model) -> None:
    """train.py keeps " " for each word, train_object.py and train_artists.py keep "" once."""

    def right(kind: str, retain: list[str] | None) -> Tensor:
        return rece.erase(tiny, said(("church", "castle"), kind), None, seed=0, retain=retain).tensors["right"]  # type: ignore[arg-type]

    assert torch.equal(right("inappropriate", None), right("object", ["", ""]))
    assert torch.equal(right("object", None), right("object", [""])) and torch.equal(right("style", None), right("object", [""]))
    assert not torch.allclose(right("object", [""]), right("object", ["", ""]), atol=1e-3)


def test_no_round_is_uce(tiny: Model, concept: Any, images: Any) -> None:
    made = rece.erase(tiny, concept, images, seed=0, rounds=0)
    torch.testing.assert_close(made.tensors["right"], uce.erase(tiny, concept, images, seed=0).tensors["right"])


def test_on_the_unedited_model_the_vectors_are_the_concepts_own(tiny: Model) -> None:
    """K -> 1 as rho -> 0 where the stacked projections have full rank."""
    c, g, one = states(tiny, "church"), rece.gram(tiny), torch.eye(32, dtype=torch.float64)
    assert torch.linalg.matrix_rank(g) == 32
    far, near = ((rece.adversarial(c, g, one, rho, "zero", c) - c).abs().max().item() for rho in (1.0, 1e-9))
    assert near < 1e-6 < far


def test_what_a_round_finds_means_the_concept_to_the_edited_model(tiny: Model, concept: Any, images: Any) -> None:
    c, g = states(tiny, "church"), rece.gram(tiny)
    m = uce.erase(tiny, concept, images, seed=0).tensors["right"].double()
    found = rece.adversarial(c, g, m, 1e-6, "zero", c)
    for weight in edits.parameters(tiny, WHERE).values():
        w = weight.detach().double()
        before, after = (w @ c.T - w @ m @ c.T).norm(), (w @ c.T - w @ m @ found.T).norm()
        assert after < 0.5 * before


def test_the_preset_is_that_of_the_three_official_programs() -> None:
    given = {name: preset("rece", "official", name) for name in ("nudity", "violence", "church", "french_horn", "van_gogh", "crayon")}
    assert given == {name: preset("rece", "darkminer", name) for name in given}, "which fills in what Dark Miner did not run"
    assert {name: (more["rho"], more["rounds"]) for name, more in given.items()} == {
        "nudity": (0.1, 3), "violence": (0.1, 2), "church": (1e-3, 1), "french_horn": (0.1, 1), "van_gogh": (1e-3, 1), "crayon": (1e-3, 1),
    }  # fmt: skip
    for name, more in given.items():
        kind = yaml.safe_load((TOP / f"data/concepts/{name}.yaml").read_text())["kind"]
        assert (more.get("target"), more.get("uce_preserve_scale")) == (("art", 0.1) if kind == "style" else (None, None)), name


@pytest.mark.parametrize("setting", ["lamb", "uce_lamb"])
def test_lamb_0_of_too_few_vectors_is_refused(tiny: Model, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.tokenizer, "model_max_length", 8)  # fewer vectors than these have components
    with pytest.raises(ValueError, match=f"^rece: {setting} is 0.0, .* make it above 0"):
        rece.erase(tiny, said(("church",)), None, seed=0, retain=[], uce_retain=[], **{setting: 0.0})  # type: ignore[arg-type]
