"""RECE: every round equals the official order of steps, written out layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palimpsest import edits
from palimpsest.closed_form import WHERE, states
from palimpsest.methods import rece, uce
from palimpsest.types import Model


def plain(model: Model, words: tuple[str, ...], rounds: int, rho: float, regularisation: str) -> dict[str, torch.Tensor]:
    """Equation 8 and UCE's edit on the matrices themselves, one layer after the other, in float64."""
    original = {name: p.detach().double() for name, p in edits.parameters(model, WHERE).items()}
    now = {name: value.double() for name, value in edits.weights(model, uce.erase(model, words_only(words), None, seed=0)).items()}
    eye, old = torch.eye(32, dtype=torch.float64), states(model, " ")
    for _ in range(rounds):
        said = sum(w.T @ w for w in now.values())
        wanted = sum(now[name].T @ original[name] for name in now)
        found = []
        for word in words:
            c = states(model, word)
            if regularisation == "zero":
                found.append(c @ (torch.inverse(rho * eye + said) @ wanted).T)
            else:
                found.append((rho * old + c @ wanted.T) @ torch.inverse(rho * eye + said).T)
        for name, w in now.items():
            left, right = 0.1 * w, 0.1 * eye
            for c in found:
                left, right = left + (w @ old.T) @ c, right + c.T @ c
            for _ in words:
                left, right = left + 0.1 * (w @ old.T) @ old, right + 0.1 * old.T @ old
            now[name] = left @ torch.inverse(right)
    return now


def words_only(words: tuple[str, ...]) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(words=words, kind="object")


@pytest.mark.parametrize("words, rounds, rho", [(("church",), 3, 0.1), (("church", "castle"), 2, 0.1), (("church",), 0, 0.1)])
@pytest.mark.parametrize("regularisation", ["zero", "standard"])
def test_rounds_equal_the_plain_ones(tiny: Model, words: Any, rounds: int, rho: float, regularisation: Any) -> None:
    made = rece.erase(tiny, words_only(words), None, seed=0, rounds=rounds, rho=rho, regularisation=regularisation)  # type: ignore[arg-type]
    wanted = plain(tiny, words, rounds, rho, regularisation)
    for name, value in edits.weights(tiny, made).items():
        torch.testing.assert_close(value.double(), wanted[name], atol=1e-5, rtol=1e-4)


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
