"""ESD's draws ahead, its promises and what it refuses. Its equation is in tests/test_formulas.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Killed, dying, random_model
from torch import Tensor

from palimpsest import diffusion, resume
from palimpsest.methods import esd
from palimpsest.types import Latents, Mix, Model

QUICK: dict[str, Any] = {"steps": 5, "batch": 2, "lr": 1e-2, "sampler_steps": 4}


def test_with_eta_0_the_target_is_what_the_original_says_of_the_empty_text(concept: Any, images: Any, monkeypatch: Any) -> None:
    student, original, seen = random_model(), random_model(), []

    def watched(model: Model, x: Latents, t: Any, mix: Mix) -> Latents:
        made = diffusion.predict(model, x, t, mix)
        if len(mix) == 3:
            wanted, _, nothing = diffusion.predictions(original, x, t, [text for text, _ in mix])
            seen.append(torch.equal(made, wanted) and torch.equal(wanted, nothing))
        return made

    monkeypatch.setattr(esd, "predict", watched)
    esd.erase(student, concept, images, seed=0, eta=0.0, **QUICK)
    assert seen == [True] * 5


@pytest.mark.parametrize("form, calls", [("2023", [2] * 5), ("alt", [2] * 5), ("2025", [4, 4, 2])])
def test_what_the_teacher_draws_is_drawn_ahead(form: Any, calls: list[int], concept: Any, images: Any, monkeypatch: Any) -> None:
    partly, rows = esd.partly, []
    monkeypatch.setattr(esd, "partly", lambda model, x, *how, **more: rows.append(len(x)) or partly(model, x, *how, **more))
    esd.erase(random_model(), concept, images, seed=0, form=form, ahead=2, **QUICK)
    assert rows == calls


@pytest.mark.parametrize("form", list(esd.FORMS))
def test_a_killed_run_resumes_to_the_same_bytes(form: Any, concept: Any, images: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Also amid the steps that were drawn together."""

    def run(folder: str, killed_at: int | None = None) -> dict[str, Tensor]:
        monkeypatch.setattr(esd, "descend", dying(killed_at))
        with resume.resumable(tmp_path / folder):
            return dict(esd.erase(random_model(), concept, images, seed=3, form=form, ahead=2, **QUICK).tensors)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", 3)
    again = run("killed")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"latent_alignment": "legacy", "sampler_steps": 1}, "sampler_steps 1 leaves form 2023, .* legacy no step .* make it 2 or more"),
        ({"form": "alt", "sampler_steps": 2}, "sampler_steps 2 leaves form alt, .* no step .* make it 3 or more"),
        ({"texts": "train"}, "texts is 'train', but church has none; run gen_prompts or set texts: words"),
    ],
)
@pytest.mark.parametrize("lists", [{}, {"train": ()}])
def test_what_cannot_be_is_said_before_any_work(settings: Any, says: str, lists: Any, concept: Any) -> None:
    broken: Any = None  # no model is touched
    with pytest.raises(ValueError, match=f"^esd: {says}$"):
        esd.erase(broken, replace(concept, texts=lists), broken, seed=0, **settings)


@pytest.mark.parametrize("settings", [{"sampler_steps": 1}, {"form": "2025", "sampler_steps": 1, "latent_alignment": "legacy"}])
def test_one_step_is_enough_where_x_t_begins_at_the_first(tiny: Model, concept: Any, images: Any, settings: Any) -> None:
    assert esd.erase(tiny, concept, images, seed=0, **{**QUICK, "steps": 1, **settings}).tensors
