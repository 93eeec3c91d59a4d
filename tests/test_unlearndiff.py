"""UnlearnDiffAtk: its projection, gradients and layouts, one prompt beside many, what is dropped, what stops, what is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, random_model
from plain import unlearndiff as alone
from torch import Tensor

from palimpsest import data, diffusion, safety, search
from palimpsest.attacks import p4d, unlearndiff
from palimpsest.draws import Seeded
from palimpsest.resume import Part, Shares, resumable
from palimpsest.types import Model

LAYOUTS = ("prefix", "suffix", "middle", "spread", "every-3")
DRAW = partial(diffusion.drawn, steps=1, guidance=4.0)
QUICK: dict[str, Any] = {"k": 3, "timesteps": 2, "iterations": 2, "lr": 0.05}


def judged(limit: float) -> Callable[[Tensor, Sequence[data.Prompt]], tuple[Tensor, Tensor]]:
    """A judge who finds the concept in about 1 - limit of all pictures, by digits of their mean that look like chance."""

    def judge(pixels: Tensor, rows: Sequence[data.Prompt]) -> tuple[Tensor, Tensor]:
        value = (pixels.mean((1, 2, 3)) * 997).remainder(1)
        return value, value > limit

    return judge


NEVER, ALWAYS = judged(2.0), judged(-1.0)


def attacked(
    model: Model, concept: data.Concept, plain: data.Prompts, form: Any = unlearndiff, judge: Any = NEVER, **settings: Any
) -> data.Prompts:
    given = {"original": lambda: random_model(1), "plain": plain, "seed": 3, "draw": DRAW, "judge": judge}
    return form.attack(model, concept, None, **{**given, **QUICK, **settings})


@pytest.fixture
def double() -> Iterator[Model]:
    """The tiny model in float64, so that one row at a time and many give the same."""
    torch.set_default_dtype(torch.float64)
    try:
        yield random_model()
    finally:
        torch.set_default_dtype(torch.float32)


def rows(kind: str) -> Tensor:
    draws = torch.Generator().manual_seed(5)
    if kind == "inside":
        return torch.rand(6, 300, generator=draws).softmax(1)
    if kind == "moved":  # what Adam's first step makes of the uniform start
        return 1 / 300 + 0.01 * torch.randn(6, 300, generator=draws).sign()
    return torch.randn(6, 300, generator=draws) * torch.tensor([1e-3, 0.1, 1, 10, 100, 0])[:, None]


@pytest.mark.parametrize("kind", ["inside", "moved", "anywhere"])
def test_projection_to_the_simplex(kind: str) -> None:
    """Equal to the official bisection bit by bit, to the nearest point up to its tolerance, and nothing moves twice."""
    a = rows(kind)
    found = unlearndiff.projected(a)
    assert torch.equal(found, torch.stack([alone.projected(row) for row in a]))
    exact = torch.stack([alone.sorted_projection(row.double()) for row in a]).float()
    torch.testing.assert_close(found, exact, atol=1.2e-5, rtol=0)
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found.sum(1), torch.ones(6), atol=300 * 1.2e-5, rtol=0)
    torch.testing.assert_close(unlearndiff.projected(found), found, atol=1.2e-5, rtol=0)
    one_hot = torch.eye(6, 300)
    assert torch.equal(unlearndiff.projected(one_hot), one_hot)


@pytest.mark.parametrize("where", LAYOUTS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_layouts(where: str, k: int) -> None:
    for length in (0, 1, 2, 7, 8, 15):
        prompt, found = list(range(length)), [f"found {n}" for n in range(k)]
        spots = search.places(length, k, where)
        line = alone.inserted(prompt, found, where)
        assert [line[spot] for spot in spots] == found
        assert [one for n, one in enumerate(line) if n not in spots] == prompt


def units(model: Model, plain: data.Prompts, where: str = "prefix", k: int = 3) -> list[search.Unit]:
    def frame(ids: list[int]) -> search.Frame | None:
        return search.framed(model, ids, search.places(len(ids), k, where))

    frames, _ = search.fitting(model, plain.units(), frame, 60)
    draws = torch.Generator().manual_seed(1)
    return [search.Unit(row, frames[row.unit], diffusion.noise(model, draws, 1)[0]) for row in plain.units().rows]


def test_gradient_needs_no_product_with_the_vocabulary(double: Model, plain: data.Prompts) -> None:
    """dL/dE table^T, clipped, is what goes straight through the sampled rows; each unit's is that of its own error alone."""
    some, table = units(double, plain), double.text_encoder.get_input_embeddings().weight
    eps = diffusion.noise(double, torch.Generator().manual_seed(2), len(some))
    picked = torch.randint(len(table), (3 * len(some),), generator=torch.Generator().manual_seed(3))
    error, gradient = search.gradients(double, some, table[picked], 310, eps)
    for n, unit in enumerate(some):
        relaxed = torch.full((3, len(table)), 1 / len(table)).requires_grad_()
        hot = alone.Sampled.apply(relaxed, picked.view(-1, 3)[n])
        prompt = double.tokenizer(unit.row.text, add_special_tokens=False).input_ids
        context = alone.spoken(double, alone.inserted(table[prompt], hot @ table, "prefix"))
        loss = torch.nn.functional.mse_loss(
            alone.said(double.unet, alone.noisy(double, unit.x0[None], 310, eps[[n]]), 310, context), eps[[n]]
        )
        loss.backward()
        torch.testing.assert_close(error[n], loss.detach())
        torch.testing.assert_close((gradient.view(-1, 3, table.shape[1])[n] @ table.T).clamp(-1, 1), relaxed.grad)


def test_a_sequence_of_tokens_is_what_the_model_is_asked_with(tiny: Model, plain: data.Prompts) -> None:
    """The context of a search is, bit by bit, that of the found ids when they are drawn."""
    some, table = units(tiny, plain, "spread"), tiny.text_encoder.get_input_embeddings().weight
    found = torch.randint(2, len(table), (3 * len(some),), generator=torch.Generator().manual_seed(3))
    context = search.context(tiny, [unit.frame for unit in some], table[found])
    rows = [search.asked(tiny, unit, part, 1, "ids")[0] for unit, part in zip(some, found.split(3), strict=True)]
    assert torch.equal(context, diffusion.encode(tiny, [row.asked for row in rows]))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"mode": "fixed", "insertion": "spread", "start": "random"},
    {"insertion": "every-3", "stop_early": False, "weight_decay": 0.0},
    {"insertion": "middle", "k": 1, "mode": "fixed"},
    {"insertion": "suffix", "at_once": 3, "timesteps": 3},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_many_at_once_find_what_each_finds_alone(settings: dict, double: Model, concept: Any, plain: data.Prompts) -> None:
    judge = judged(0.5)
    ours = attacked(double, concept, plain, judge=judge, **settings)
    theirs = attacked(double, concept, plain, alone, judge, **{key: value for key, value in settings.items() if key != "at_once"})
    assert list(ours.rows) == list(theirs.rows) and len(ours.log) == len(theirs.log) > 0
    for mine, other in zip(ours.log, theirs.log, strict=True):
        assert mine == pytest.approx(other, rel=1e-6)


def test_a_row_does_not_depend_on_its_neighbours(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    whole = attacked(tiny, concept, plain, judge=judged(0.5))
    for row in plain.units().rows:
        others = [other if n == row.unit else other._replace(purpose="other") for n, other in enumerate(plain.rows)]
        found = attacked(tiny, concept, replace(plain, rows=others), judge=judged(0.5))
        assert list(found.rows) == [one for one in whole.rows if one.unit == row.unit]


class Recorded(Seeded):
    """A stream that tells its draws."""

    def __init__(self, seed: int, heard: list[tuple[int, Tensor]]) -> None:
        super().__init__(seed)
        self.seed, self.heard = seed, heard

    def noise(self, *shape: int) -> Tensor:
        self.heard.append((self.seed, made := super().noise(*shape)))
        return made


@pytest.mark.parametrize("mode", ["faithful", "fixed"])
def test_modes(mode: str, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    """Faithful: each block sees the same noise, and the text is asked. Fixed: the noise runs on, and the ids are asked."""
    heard: list[tuple[int, Tensor]] = []
    found = attacked(tiny, concept, plain, mode=mode, draws=lambda seed: Recorded(seed, heard))
    seeds = {row.seed + 3 for row in plain.units().rows}
    for seed in seeds:
        mine = torch.stack([noise for at, noise in heard if at == seed])
        assert torch.equal(mine[:2], mine[2:]) == (mode == "faithful")
    assert {row.by for row in found.rows if row.stage} == {"text" if mode == "faithful" else "ids"}
    assert all(len(row.ids) == len(search.encoded(tiny, plain.rows[row.unit])) + 3 for row in found.rows if row.stage)
    lossless = {(line["unit"], line["stage"]): line["same"] for line in found.log}
    assert all(lossless[row.unit, row.stage] == (search.encoded(tiny, row) == list(row.ids)) for row in found.rows if row.stage)


def test_long_prompts_are_dropped_and_recorded(tiny: Model, concept: Any, plain: data.Prompts, capsys: Any) -> None:
    """As the official code drops those of more than 60 tokens, in the faithful mode alone; they are asked plainly."""
    lengths = {row.unit: len(search.encoded(tiny, row)) + 2 for row in plain.units().rows}
    longest = max(lengths.values()) - 1
    long = {unit for unit, length in lengths.items() if length > longest}
    found = attacked(tiny, concept, plain, longest=longest)
    assert {row.unit for row in found.rows if row.stage} == lengths.keys() - long
    assert {row.unit for row in found.rows if not row.stage} == lengths.keys()
    assert [line for line in found.log if "dropped_tokens" in line] == [{"unit": n, "dropped_tokens": lengths[n]} for n in sorted(long)]
    assert f"{len(lengths)} prompts, {len(lengths) - len(long)} of them short enough" in capsys.readouterr().err
    assert {row.unit for row in attacked(tiny, concept, plain, longest=longest, mode="fixed").rows if row.stage} == lengths.keys()


def test_a_unit_ends_with_the_first_picture_that_shows_the_concept(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    every = plain.units().rows
    assert attacked(tiny, concept, plain, judge=ALWAYS).rows == every, "won by the plain prompts"
    never = attacked(tiny, concept, plain)
    assert [(row.unit, row.stage) for row in never.rows] == [(row.unit, stage) for row in every for stage in range(3)]
    assert attacked(tiny, concept, plain, judge=ALWAYS, stop_early=False).rows == never.rows
    judge = judged(0.5)
    some = attacked(tiny, concept, plain, judge=judge)
    positive = dict(zip([(r.unit, r.stage) for r in some.rows], judge(DRAW(tiny, some, batch=1), some.rows)[1].tolist(), strict=True))
    last = {row.unit: row.stage for row in some.rows}
    assert not any(yes and stage < last[unit] for (unit, stage), yes in positive.items())
    assert all(stage == 2 or positive[unit, stage] for unit, stage in last.items())
    won = [len({unit for (unit, stage), yes in positive.items() if yes and stage <= upto}) for upto in range(3)]
    assert won == sorted(won), "success rates rise with checkpoints"


@pytest.mark.parametrize("form", [unlearndiff, p4d])
def test_pictures_are_drawn_in_full_batches(form: Any, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    """However many are still searched: a picture's bits do not depend on it."""
    sizes = list[tuple[int, int]]()

    def draw(model: Model, prompts: data.Prompts, *, batch: int) -> Tensor:
        sizes.append((len(prompts.rows), batch))
        return DRAW(model, prompts, batch=batch)

    attacked(tiny, concept, plain, form, judged(0.5), draw=draw, timesteps=4, at_once=3)
    assert {batch for _, batch in sizes} == {3} and min(count for count, _ in sizes) < 3
    row = plain.units().rows[0]
    given, few = data.Prompts([row, *plain.units().rows[1:3]]), data.Prompts([row])
    assert torch.equal(DRAW(tiny, given, batch=3)[0], DRAW(tiny, few, batch=3)[0])


def test_a_search_on_a_sensitive_concept_has_no_words_for_minors(tiny: Model, concept: Any, plain: data.Prompts, monkeypatch: Any) -> None:
    """Masked tokens are no columns of the relaxed rows; a text that spells one is not drawn."""
    barred = set(range(40, 300))
    allowed = torch.tensor([n not in barred for n in range(len(tiny.tokenizer))])
    monkeypatch.setattr(safety, "allowed", lambda *_: allowed)
    found = attacked(tiny, replace(concept, kind="inappropriate"), plain)
    for row in found.rows:
        mine = list(row.ids[:3])
        assert not barred & set(mine)
    assert torch.equal(search.choosable(tiny, concept)[0], allowed.nonzero()[:, 0])
    monkeypatch.setattr(safety, "about_minors", lambda _: True)
    look = search.looking(tiny, replace(concept, kind="inappropriate"), DRAW, ALWAYS, 1)
    assert look(plain.units().rows) == set()


def test_bad_input(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    with pytest.raises(ValueError, match="k: no prompt leaves room for the tokens in 24"):
        attacked(tiny, concept, plain, k=30)
    with pytest.raises(ValueError, match="none of the plain prompts should show the concept"):
        attacked(tiny, concept, data.Prompts([]))
    for count in (0, 1001):
        with pytest.raises(ValueError, match=f"timesteps: {count} is none of 1 to 1000; write"):
            attacked(tiny, concept, plain, timesteps=count)


def test_presets_bind(tiny: Model, concept: Any, plain: data.Prompts) -> None:
    presets = yaml.safe_load((TOP / "data/presets/unlearndiff.yaml").read_text())
    assert set(presets) == {"official", "darkminer"}
    for entry in presets.values():
        for extra in ({}, *{tuple(value.items()): value for value in entry["for"].values()}.values()):
            given = {**entry["settings"], **extra}
            quick = {"timesteps": 1, "iterations": 1, "prompts": 1, "k": given.get("k", 5), "stop_early": False, "judge": ALWAYS}
            found = attacked(tiny, concept, plain, **{**given, **quick})
            assert len(found.rows) == 2 and len(found.rows[1].ids) == len(search.encoded(tiny, found.rows[0])) + given.get("k", 5)


class Killed(Exception):
    pass


def saved(folder: Path, found: data.Prompts) -> bytes:
    found.save(folder / "found.json", {})
    return (folder / "found.json").read_bytes() + (folder / "found.safetensors").read_bytes()


def dying(call: Callable[..., Any], last: int) -> Callable[..., Any]:
    """The same, which kills what calls it once more than so often."""
    left = [last]

    def called(*args: Any, **given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return call(*args, **given)

    return called


def resumes(folder: Path, attack: Callable[..., data.Prompts], **killed: Any) -> None:
    """Killed by these arguments and started again, or made in two parts, an attack finds the same bytes as in one go."""

    def job(name: str, part: Part | None = None) -> Any:
        return resumable(folder / name, part, Shares("the same base, concept, code and seed", [], folder / "shared"))

    whole = saved(folder, attack())
    with pytest.raises(Killed), job("work"):
        attack(**killed)
    with job("work"):
        assert saved(folder, attack()) == whole
    for n in (1, 2):
        with job("other method", Part(n, 2)):
            attack()
    with job("other method"):
        assert saved(folder, attack()) == whole


def test_killed_and_resumed_and_in_parts(tiny: Model, concept: Any, plain: data.Prompts, tmp_path: Path) -> None:
    """The same bytes; target pictures of the unedited model are drawn once for all methods."""
    drawn = list[int]()

    def original() -> Model:
        drawn.append(1)
        return random_model(1)

    attack = partial(attacked, tiny, concept, plain, at_once=1, timesteps=1, original=original)
    resumes(tmp_path, attack, judge=dying(NEVER, 3))
    assert len(drawn) == 2, "outside of a job, and for all jobs"


@pytest.mark.parametrize("form", [unlearndiff, p4d])
def test_only_prompts_that_the_unedited_model_shows(form: Any, tiny: Model, concept: Any, plain: data.Prompts) -> None:
    judge, units = judged(0.5), plain.units()
    shown = [
        row.unit for row in units.rows if judge(data.to_bytes(DRAW(random_model(1), data.Prompts([row]), batch=1)) / 127.5 - 1, [row])[1]
    ]
    assert 1 < len(shown) < len(units.rows)
    chosen = {"judge": judge, "only_shown": True, "stop_early": False, "at_once": 1}
    assert [row.unit for row in attacked(tiny, concept, plain, form, **chosen).rows if row.stage == 0] == shown
    assert {row.unit for row in attacked(tiny, concept, plain, form, **chosen, prompts=1).rows} == {shown[0]}
    with pytest.raises(ValueError, match="only_shown: the unedited model shows the concept for none"):
        attacked(tiny, concept, plain, form, judge=NEVER, only_shown=True)
