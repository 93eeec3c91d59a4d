"""QF-Attack: its three searches and its mask against the plain ones (tests/plain/qf.py), its quirks, and what it does with bad input."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model
from plain import qf as plainly
from torch import Tensor

from palimpsest import data, search
from palimpsest.attacks import qf
from palimpsest.diffusion import encode
from palimpsest.draws import Seeded
from palimpsest.report import runs
from palimpsest.report.units import Look
from palimpsest.resume import resumable
from palimpsest.types import Model

TEXTS = ["a photo of a church", "a church at night", "a dog in the snow"]
SENTENCES = [f"a photo of {thing} and a church" for thing in ("a dog", "a cat", "a tree", "a car", "a duck")]
PGD: dict[str, Any] = {"iterations": 3, "samples": 8, "top": 3, "tau": 0.5, "step": 1.0, "backward": "last", "slots": "words"}
SMALL: dict[str, Any] = {"length": 2, "sweeps": 0, "generations": 2, "iterations": 2, "samples": 4, "at_once": 2, "batch": 64}


class Killed(Exception):
    pass


@pytest.fixture
def mask(tiny: Model) -> Tensor:
    return qf.steerable(tiny, SENTENCES, ["and a church"], 0.9)


def aim(model: Model, mask: Tensor | None = None, texts: list[str] = TEXTS) -> qf.Aim:
    shade = torch.ones(1, 1) if mask is None else mask
    return qf.Aim(model, [data.Prompt(text, n) for n, text in enumerate(texts)], encode(model, texts), shade, 32)


def streams(*seeds: int) -> list[Seeded]:
    return [Seeded(seed) for seed in seeds]


def run(concept: Any, images: Any, plain: data.Prompts, **settings: Any) -> data.Prompts:
    given = {"original": random_model, "plain": plain, "seed": 3, **SMALL, **settings}
    return qf.attack(random_model(), concept, images, **given)


def saved(folder: Path, prompts: data.Prompts) -> bytes:
    prompts.save(folder / "found.json", {})
    return (folder / "found.json").read_bytes()


@pytest.mark.parametrize("masked, masked_fill", [(False, False), (True, False), (True, True)])
def test_greedy_side_by_side_equals_the_plain_one(masked: bool, masked_fill: bool, tiny: Model, mask: Tensor) -> None:
    shade, texts = (mask if masked else None), TEXTS[:2]
    found = qf.greedy(aim(tiny, shade, texts), streams(0, 1), 2, sweeps=1, masked_fill=masked_fill, random_first=False)
    wanted = [plainly.greedy(tiny, text, qf.ALPHABET, 2, 1, shade, masked_fill) for text in texts]
    assert [f"{text} {s}" for text, (s, *_) in zip(texts, found, strict=True)] == wanted


@pytest.mark.parametrize("masked", [False, True])
def test_genetic_side_by_side_equals_the_plain_one(masked: bool, tiny: Model, mask: Tensor) -> None:
    shade = mask if masked else None
    found = qf.genetic(aim(tiny, shade), streams(0, 1, 2), 4, pool=5, generations=4, survivors=8)
    wanted = [plainly.genetic(tiny, text, qf.ALPHABET, Seeded(n), 4, 5, 4, 8, shade) for n, text in enumerate(TEXTS)]
    assert [s for s, *_ in found] == wanted


@pytest.mark.parametrize("masked", [False, True])
def test_descent_side_by_side_equals_the_plain_one(masked: bool, tiny: Model, mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same characters, and the same logits at every step, here by a closed form and there through autograd."""
    shade, seen, draw = (mask if masked else None), [], qf.sampled
    monkeypatch.setattr(qf, "sampled", lambda draws, logits, *rest: seen.append(logits.clone()) or draw(draws, logits, *rest))
    found = qf.descended(aim(tiny, shade), streams(0, 1, 2), 3, **PGD)
    for n, text in enumerate(TEXTS):
        wanted, path = plainly.descent(tiny, text, qf.ALPHABET, Seeded(n), 3, 3, 8, 3, 0.5, shade)
        assert found[n][0] == wanted
        torch.testing.assert_close(torch.stack(seen[n::3]), torch.stack(path))


@pytest.mark.parametrize("form", ["greedy", "genetic", "pgd"])
def test_a_prompt_does_not_depend_on_its_neighbours(form: str, concept: Any, images: Any, plain: data.Prompts) -> None:
    together = run(concept, images, plain, form=form, at_once=4)
    alone = run(concept, images, plain, form=form, at_once=1)
    assert list(together.rows) == list(alone.rows) and list(together.log) == list(alone.log)


def test_mask_is_the_vote_of_the_sentences(tiny: Model, mask: Tensor) -> None:
    assert torch.equal(mask, plainly.masks(tiny, SENTENCES, "and a church", 4.5))
    assert 0 < mask.mean() < 1 and mask[0].sum() == 0, "the first token sees nothing of the phrase"
    wider = qf.steerable(tiny, SENTENCES, ["and a church"], 0.5)
    assert (wider >= mask).all() and wider.sum() > mask.sum()


def test_masked_coordinates_alone_count(tiny: Model, mask: Tensor) -> None:
    one = aim(tiny, mask)
    states = one.states + (1 - mask) * torch.randn(one.states.shape, generator=torch.Generator().manual_seed(0))
    of = torch.arange(3)
    torch.testing.assert_close(one.cosines(states, of), torch.ones(3))
    assert (one.cosines(states, of, masked=False) < 0.99).all()


def test_sweeps_never_make_it_worse(tiny: Model) -> None:
    one = aim(tiny)
    values = []
    for sweeps in (0, 1, 2):
        found = qf.greedy(one, streams(0, 1, 2), 2, sweeps=sweeps, masked_fill=False, random_first=False)
        values.append(one.read([(n, f"{text} {s}") for n, (text, (s, *_)) in enumerate(zip(TEXTS, found, strict=True))]))
    assert all(later <= earlier + 1e-6 for a, b in pairwise(values) for earlier, later in zip(a, b, strict=True))


@pytest.mark.parametrize("form, steps", [("greedy", 4), ("genetic", 2), ("pgd", 2)])
def test_the_log_is_a_curve_of_cosines(form: str, steps: int, concept: Any, images: Any, plain: data.Prompts) -> None:
    """Of each step the least; the last or the least of them is that of what was found."""
    model, found = random_model(), run(concept, images, plain, form=form, sweeps=1, by="ids")
    for row in found.rows:
        curve = [line["loss"] for line in found.log if line["unit"] == row.unit and "loss" in line]
        assert len(curve) == steps
        of = aim(model, texts=[plain.rows[row.unit].text])
        assert min(curve) == pytest.approx(of.read([(0, row.asked)])[0], rel=1e-5)
    drawn = runs.runs("uce", found.log, [Look(row.unit, row.seed, 1, "ids", 0.0, False, False) for row in found.rows])
    assert [run.of for run in drawn] == ["loss"] * len(found.rows)


def test_a_random_first_character_stays(tiny: Model) -> None:
    found = qf.greedy(aim(tiny), streams(0, 1, 2), 2, sweeps=1, masked_fill=False, random_first=True)
    assert [s[0] for s, *_ in found] == [qf.ALPHABET[int(Seeded(n).integers(63, 1))] for n in range(3)]
    assert all(len(s) == 2 for s, *_ in found)


def test_a_pair_exchanges_heads_and_changes_in_one_place() -> None:
    class Scripted(Seeded):
        def integers(self, high: int, *shape: int) -> Tensor:
            upper, values = script.pop(0)
            assert high == upper and shape == (2,)
            return torch.tensor(values)

    script = [(2, [1, 0]), (2, [0, 1]), (3, [2, 0]), (63, [62, 0])]  # mates, cuts less one, places, characters
    assert qf.paired(Scripted(0), ["abc", "xyz"]) == ["xb9", "ay9", "·bz", "·yc"]


def test_hard_samples_follow_the_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    soft = qf.sampled(Seeded(0), logits, 20000, 0.5)
    share = torch.bincount(soft.argmax(-1)[:, 0], minlength=3) / 20000
    torch.testing.assert_close(share.double(), logits.softmax(-1)[0], atol=0.015, rtol=0)
    torch.testing.assert_close(soft.sum(-1), torch.ones(20000, 1, dtype=torch.float64))


def test_the_gradient_of_the_last_or_of_all(tiny: Model) -> None:
    found = {}
    for backward in ("last", "all"):
        seen: list[Tensor] = []
        with pytest.MonkeyPatch.context() as patch:
            draw = qf.sampled
            patch.setattr(
                qf, "sampled", lambda draws, logits, *rest, draw=draw, seen=seen: seen.append(logits) or draw(draws, logits, *rest)
            )
            qf.descended(aim(tiny, texts=TEXTS[:1]), streams(0), 3, **{**PGD, "iterations": 2, "backward": backward})
        found[backward] = seen[1]
        assert torch.allclose((seen[1] - seen[0]).abs(), torch.tensor(1 / 2**0.5).double()), "a step is the sign of a gradient"
    assert not torch.equal(found["last"], found["all"])


def test_where_characters_stand(tiny: Model) -> None:
    """ "splattered" is more than one token: counted in words, the characters overwrite the end of the prompt."""
    row = data.Prompt("a splattered church", 0)
    ids = search.encoded(tiny, row)
    assert len(ids) > 3
    assert qf.places(tiny, row, 2, "tokens") == (ids, [])
    assert qf.places(tiny, row, 2, "words") == (ids[:3], ids[5:])


@pytest.mark.parametrize("form", ["greedy", "pgd"])
def test_what_is_asked(form: str, concept: Any, images: Any, plain: data.Prompts) -> None:
    found = run(concept, images, plain, form=form, by="ids")
    for row in found.rows:
        about = plain.rows[row.unit]
        assert row.text.startswith(f"{about.text} ") and len(row.text) == len(about.text) + 3 and row.by == "ids" and row.ids
    same = [line["same_tokens"] for line in found.log if "same_tokens" in line]
    read = [search.encoded(random_model(), row) == list(row.ids) for row in found.rows]
    assert same == read and (form == "pgd" or all(same))


def test_targeted_at_the_words_of_the_concept(concept: data.Concept, images: Any, plain: data.Prompts) -> None:
    untargeted, targeted = (run(concept, images, plain, targeted=on, masked_fill=True).rows for on in (False, True))
    assert len(targeted) == len(untargeted) and [row.unit for row in targeted] == [row.unit for row in untargeted]
    own = run(concept, images, plain, targeted=True, sentences=SENTENCES, phrase="and a church", masked_fill=True)
    assert len(own.rows) == len(targeted)


def test_killed_and_started_again_gives_the_same_bytes(
    concept: Any, images: Any, plain: data.Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, find, calls = saved(tmp_path, run(concept, images, plain)), qf.greedy, []

    def breaks(one: qf.Aim, *given: Any, **settings: Any) -> Any:
        calls.append([row.unit for row in one.rows])
        if len(calls) == 2:
            raise Killed
        return find(one, *given, **settings)

    monkeypatch.setattr(qf, "greedy", breaks)
    with pytest.raises(Killed), resumable(tmp_path / "work"):
        run(concept, images, plain)
    with resumable(tmp_path / "work"):
        again = run(concept, images, plain)
    assert saved(tmp_path, again) == expected and calls[0] != calls[1] == calls[2]


def test_prompts_without_room_are_asked_plainly(concept: Any, images: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [data.Prompt("a church " * 20, 1), data.Prompt("a church", 2)]
    found = run(concept, images, data.Prompts(rows))
    assert [(row.unit, row.stage) for row in found.rows] == [(0, 0), (1, 1)] and found.rows[0].text == rows[0].text
    assert "2 prompts, 1 of them short enough" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"length": 30}, "length: none of 4 prompts has room for 30 characters"),
        ({"length": 1}, "at least 2"),
        ({"targeted": True, "phrase": "a castle"}, "phrase: .* has no a castle"),
        ({"targeted": True, "agreement": 1.0}, "agreement: no coordinate moves alike"),
    ],
)
def test_bad_settings_are_told_in_one_line(settings: dict[str, Any], said: str, concept: Any, images: Any, plain: data.Prompts) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        run(concept, images, plain, **settings)
    assert "\n" not in str(caught.value)
