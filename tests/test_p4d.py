"""P4D: no error where nothing was erased, its projection, the three forms alone and side by side, what is drawn once, what is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, random_model
from plain import p4d as alone
from test_unlearndiff import (
    ALWAYS,
    DRAW,
    NEVER,
    double,  # noqa: F401
    dying,
    judged,
    resumes,
    units,
)

from palimpsest import clip, data, diffusion, guidance, safety, search, targets
from palimpsest.attacks import p4d
from palimpsest.data import Prompt
from palimpsest.types import Model

CLIP = str(TOP / "data/mini/clip")
QUICK: dict[str, Any] = {"k": 3, "timesteps": 2, "iterations": 2, "lr": 0.05, "length": 4, "steps": 4, "every": 2}
FORMS = ("optml", "n", "k")


def attacked(
    model: Model, concept: data.Concept, plain: data.Prompts, form: str, way: Any = p4d, judge: Any = NEVER, **settings: Any
) -> data.Prompts:
    given = {"original": lambda: random_model(1), "plain": plain, "seed": 3, "draw": DRAW, "judge": judge}
    return way.attack(model, concept, None, **{**given, **QUICK, "form": form, "clip_model": CLIP, **settings})


def test_no_error_where_nothing_was_erased(tiny: Model, plain: data.Prompts) -> None:
    """The same model, and a sequence that is the prompt: both predictions are the same, and so is the gradient none."""
    rows = plain.units().rows
    ids = {row.unit: search.encoded(tiny, row) for row in rows}
    whole = {unit: search.framed(tiny, [], range(len(line))) for unit, line in ids.items()}
    some = [unit._replace(frame=whole[unit.row.unit]) for unit in units(tiny, plain)]
    table = tiny.text_encoder.get_input_embeddings().weight

    def goal(x_t: torch.Tensor, t: torch.Tensor, units: Sequence[search.Unit]) -> torch.Tensor:
        with torch.no_grad():
            return diffusion.predict(tiny, x_t, t, [(diffusion.encode(tiny, [unit.row.text for unit in units]), 1.0)])

    eps = diffusion.noise(tiny, torch.Generator().manual_seed(0), len(some))
    shown = table[[n for row in rows for n in ids[row.unit]]]
    error, gradient = search.gradients(tiny, some, shown, 510, eps, goal)
    assert torch.equal(error, torch.zeros(len(some))) and torch.equal(gradient, torch.zeros_like(gradient))
    error, gradient = search.gradients(tiny, some, shown.flip(0), 510, eps, goal)
    assert error.min() > 0 and gradient.abs().amax(1).min() > 0


def test_projection_by_cosine() -> None:
    """The nearest word is the one that a search row by row finds; a word is its own, at any length; nothing moves twice."""
    draws = torch.Generator().manual_seed(2)
    table = torch.randn(50, 8, generator=draws)
    directions = torch.nn.functional.normalize(table, dim=-1)
    rows = torch.randn(20, 8, generator=draws)
    found = p4d.nearest(rows, directions)
    assert found.tolist() == [alone.nearest(row, table) for row in rows]
    assert p4d.nearest(7 * table, directions).tolist() == list(range(50))
    assert torch.equal(p4d.nearest(table[found], directions), found)


def test_the_slots_of_form_k(tiny: Model) -> None:
    """One before every three tokens: the places whose number, from none on, is a multiple of four."""
    for length in range(12):
        spots = search.places(length, length // 3 + 1, "every-3")
        assert spots == [n for n in range(length + len(spots)) if n % 4 == 0]


@pytest.mark.parametrize("form", ["n", "k"])
def test_padding_of_the_official_search(form: str, tiny: Model) -> None:
    """Behind the tokens id 0; form n closes them with the end token, form k overwrites it."""
    frame = search.framed(tiny, [5, 6, 7], [0], end=form == "n", pad=0)
    begin, end = tiny.tokenizer.bos_token_id, tiny.tokenizer.eos_token_id
    assert frame is not None
    assert frame.ids.tolist() == [begin, end, 5, 6, 7, *([end] if form == "n" else [0]), *[0] * 18]
    assert frame.free.tolist() == [1] and frame.length == 4


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("optml", {}),
    ("optml", {"mode": "fixed", "insertion": "spread", "at_once": 3}),
    ("n", {"padding": "zero", "span": "unit", "pictures": 2}),
    ("k", {"padding": "zero", "mode": "fixed"}),
]


@pytest.mark.parametrize("form, settings", SETTINGS)
def test_many_at_once_find_what_each_finds_alone(
    form: str, settings: dict, request: Any, concept: Any, plain: data.Prompts, monkeypatch: Any
) -> None:
    model = request.getfixturevalue("double")
    features = clip.images
    monkeypatch.setattr(clip, "images", lambda like, pixels: features(like, pixels.float()).double())  # CLIP's weights are in float32
    ours = attacked(model, concept, plain, form, judge=judged(0.5), **settings)
    theirs = attacked(
        model, concept, plain, form, alone, judged(0.5), **{key: value for key, value in settings.items() if key != "at_once"}
    )
    assert list(ours.rows) == list(theirs.rows) and len(ours.log) == len(theirs.log) > 0
    for mine, other in zip(ours.log, theirs.log, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


SAFE = {"warmup": 1, "scale": 30.0, "threshold": 0.02, "momentum": 0.5, "beta": 0.7}


@pytest.mark.parametrize("form", ["n", "k"])
def test_the_guidance_of_the_erased_model_in_the_loss(form: str, request: Any, concept: Any, plain: data.Prompts, monkeypatch: Any) -> None:
    """The official --filter, beside safe latent diffusion written out for one prompt; it changes what is found."""
    exact, features = request.getfixturevalue("double"), clip.images
    monkeypatch.setattr(clip, "images", lambda like, pixels: features(like, pixels.float()).double())
    steered = exact._replace(guide=guidance.safe(diffusion.encode(exact, ["a church"]), **SAFE))
    given = {"judge": judged(0.5), "pictures": 2, "padding": "zero"}
    ours = attacked(steered, concept, plain, form, filter=True, guidance=3.0, **given)
    theirs = attacked(steered, concept, plain, form, alone, filter={"text": "a church", "strength": 3.0, **SAFE}, **given)
    assert list(ours.rows) == list(theirs.rows) and len(ours.rows) == 2 * len(plain.units().rows)
    for mine, other in zip(ours.log, theirs.log, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    without = attacked(steered, concept, plain, form, **given)
    assert [line["loss"] for line in without.log] != [line["loss"] for line in ours.log]
    with pytest.raises(ValueError, match="filter: form optml has no such loss"):
        attacked(exact, concept, plain, "optml", filter=True)


@pytest.mark.parametrize("form", ["n", "k"])
def test_a_prompt_beyond_the_context_has_a_search_where_it_stands_in_none(
    form: str, tiny: Model, concept: Any, plain: data.Prompts
) -> None:
    long = data.Prompts([plain.units().rows[0]._replace(text="a church " * 30)])
    if form == "n":
        assert attacked(tiny, concept, long, form).rows[-1].ids
    else:
        with pytest.raises(ValueError, match="no prompt leaves room"):
            attacked(tiny, concept, long, form)


def test_an_ordinary_guidance_in_the_loss_is_its_mix(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    """At strength one it is the prediction itself."""
    found, same = attacked(tiny, concept, plain, "n", filter=True, guidance=1.0), attacked(tiny, concept, plain, "n")
    assert found.rows == same.rows and [line["loss"] for line in found.log] == pytest.approx([line["loss"] for line in same.log], rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_its_neighbours(form: str, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    whole = attacked(tiny, concept, plain, form)
    row = plain.units().rows[2]
    others = [other if n == row.unit else other._replace(purpose="other") for n, other in enumerate(plain.rows)]
    found = attacked(tiny, concept, replace(plain, rows=others), form)
    assert list(found.rows) == [one for one in whole.rows if one.unit == row.unit]


@pytest.mark.parametrize("form", ["n", "k"])
def test_the_text_most_like_the_target_is_asked(form: str, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    """One row a unit, that of the best checkpoint; the judge stops nothing."""
    found = attacked(tiny, concept, plain, form, judge=ALWAYS, steps=5)
    assert [row.unit for row in found.rows] == [row.unit for row in plain.units().rows]
    for row in found.rows:
        mine = [line for line in found.log if line["unit"] == row.unit]
        assert [line["stage"] for line in mine] == [1, 2, 3]
        assert row.stage == max(mine, key=lambda line: line["similarity"])["stage"]
        known = search.encoded(tiny, plain.rows[row.unit])
        assert len(row.ids) == (4 if form == "n" else len(known) + len(known) // 3 + 1)
        assert form == "n" or [n for at, n in enumerate(row.ids) if at % 4] == known


@pytest.mark.parametrize("form", ["n", "k"])
def test_pictures_are_compared_in_full_batches(form: str, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    """However many are searched side by side: a picture's bits, and so which text is asked, do not depend on it."""
    sizes = list[tuple[int, int]]()

    def draw(model: Model, prompts: data.Prompts, *, batch: int) -> torch.Tensor:
        sizes.append((len(prompts.rows), batch))
        return DRAW(model, prompts, batch=batch)

    attacked(tiny, concept, plain, form, draw=draw, at_once=3)
    assert {batch for _, batch in sizes} == {3} and min(count for count, _ in sizes) < 3


def test_optml_ends_with_the_first_picture_that_shows_the_concept(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    assert attacked(tiny, concept, plain, "optml", judge=ALWAYS).rows == plain.units().rows
    found = attacked(tiny, concept, plain, "optml")
    assert [(row.unit, row.stage) for row in found.rows] == [(row.unit, stage) for row in plain.units().rows for stage in range(3)]


def test_the_target_is_the_picture_that_shows_the_concept_most(tiny: Model, plain: data.Prompts) -> None:
    some, judge = plain.units(2), judged(0.5)
    made = targets.drawn(lambda: tiny, some, DRAW, judge, batch=2, pictures=3)
    for row in some.rows:
        rows = [row._replace(seed=row.seed + n) for n in range(3)]
        pixels = data.to_bytes(DRAW(tiny, data.Prompts(rows), batch=3)) / 127.5 - 1
        best = pixels[judge(pixels, rows)[0].argmax()]
        torch.testing.assert_close(made[row.unit].pixels, best, atol=0.01, rtol=0)  # a rounding may make it the next byte
        torch.testing.assert_close(made[row.unit].moments, diffusion.moments(tiny, best[None])[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_search_on_a_sensitive_concept_has_no_words_for_minors(
    form: str, tiny: Model, concept: Any, plain: data.Prompts, monkeypatch: Any
) -> None:
    barred = set(range(40, 300))
    monkeypatch.setattr(safety, "allowed", lambda *_: torch.tensor([n not in barred for n in range(len(tiny.tokenizer))]))
    found = attacked(tiny, replace(concept, kind="inappropriate"), plain, form)
    for row in [row for row in found.rows if row.stage]:
        mine = {"optml": row.ids[:3], "n": row.ids, "k": row.ids[::4]}[form]
        assert mine and not barred & set(mine)
    monkeypatch.setattr(safety, "about_minors", lambda _: True)
    nothing = attacked(tiny, replace(concept, kind="inappropriate"), plain, form, steps=1, timesteps=1, iterations=1)
    assert form == "optml" or nothing.rows == plain.units().rows


def test_bad_input(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    with pytest.raises(ValueError, match="clip_model: form n compares pictures by CLIP; name"):
        attacked(tiny, concept, plain, "n", clip_model="")
    with pytest.raises(ValueError, match="k: no prompt leaves room for the tokens in 24"):
        attacked(tiny, concept, plain, "optml", k=30)


def test_killed_and_resumed_and_in_parts(tiny: Model, concept: Any, plain: data.Prompts, tmp_path: Path) -> None:
    """The same bytes; tests/test_unlearndiff.py shows it for the search that goes through timesteps."""
    attack = partial(attacked, tiny, concept, plain, "n", at_once=2)
    resumes(tmp_path, attack, draw=dying(DRAW, 4))  # targets, and the first of two pieces


@pytest.mark.parametrize("preset", ["official", "n", "k", "darkminer"])
def test_presets_bind(preset: str, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    entry = yaml.safe_load((TOP / "data/presets/p4d.yaml").read_text())[preset]
    for extra in ({}, *{tuple(value.items()): value for value in entry.get("for", {}).values()}.values()):
        given = {**entry["settings"], **extra}
        small = {key: QUICK[key] for key in ("timesteps", "iterations", "steps", "length", "every")} | {"clip_model": CLIP, "prompts": 1}
        small |= {"stop_early": False, "judge": ALWAYS}
        found = attacked(tiny, concept, plain, **{**given, **small})
        assert {row.unit for row in found.rows} == {plain.units(1).rows[0].unit}
        assert all(isinstance(row, Prompt) for row in found.rows)
