"""SneakyPrompt against the network and the loop of its paper (tests/plain/sneaky.py), and what its search promises."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, random_model
from plain import sneaky as plain_sneaky
from torch import Tensor

from palimpsest import clip, data, diffusion, resume, search
from palimpsest.attacks import sneaky
from palimpsest.data import Prompt
from palimpsest.draws import Seeded
from palimpsest.types import Model
from palimpsest.workflow import signatures

CLIP = str(TOP / "data/mini/clip")
RULES: dict[str, Any] = {
    "method": "policy", "subwords": 3, "queries": 60, "episodes": 50, "lr": 0.1, "threshold": 0.0, "missed": "penalty", "blocks": 5,
    "plateau": 1e-4, "share": 0.3,
}  # fmt: skip
ROW = Prompt("a photo of a church in a field at night near the big old tree", 7, unit=0)
KNOWN = [first + second for first in "abcdefgh" for second in "stuvw"]


def hashed(text: str, salt: str) -> float:
    """In [0, 1], the same for a text each time."""
    return zlib.crc32((salt + text).encode()) / 2**32


def answer(text: str, rate: float) -> sneaky.Answer:
    return sneaky.Answer(0.2 + 0.1 * hashed(text, "similarity"), hashed(text, "shown") < rate)


def followed(concept: Any, rate: float, row: Prompt = ROW, seed: int = 0, **rules: Any) -> tuple[list[Prompt], list[dict[str, float]]]:
    """The queries of one search, and its log."""
    log: list[dict[str, float]] = []
    ranking = [5, 1, 7, 4, 3, 2, 0, *range(8, len(sneaky.split(row.text)))]
    one = sneaky.search(row, concept, KNOWN, ranking, Seeded(seed), log, **RULES | rules)
    return sneaky.side_by_side([one], lambda rows: [answer(query.text, rate) for query in rows]), log


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_equals_a_plain_one(rate: float, seed: int, concept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        queries, log = followed(concept, rate, seed=seed, threshold=0.29)
        others = [5, 1, 7, 3, 2, 0, *range(8, 14)]
        plain = plain_sneaky.search(ROW.text, [4], others, KNOWN, Seeded(seed), lambda text: answer(text, rate), 0.29)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [query.text for query in queries] == [text for text, _ in plain]
    assert [line["reward"] for line in log] == pytest.approx([reward for _, reward in plain], abs=1e-12)
    assert [query.stage for query in queries] == list(range(1, len(plain) + 1))


def test_a_won_query_is_the_last(concept: Any) -> None:
    queries, log = followed(concept, rate=0.1)
    shown = [answer(query.text, 0.1).shown for query in queries]
    assert shown == [False] * (len(shown) - 1) + [True] and len(log) == len(shown)
    assert len(followed(concept, rate=1.0)[0]) == 1


def test_five_refusals_and_a_further_word_is_replaced(concept: Any) -> None:
    """Up to more than three tenths of the words, and then no more."""
    queries, log = followed(concept, rate=0.0)
    assert [line["words"] for line in log] == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5 + [7] * 4  # the last one, "a", stands in three places
    rewards = [line["reward"] for line in log]
    assert rewards == pytest.approx([-(n + 1) / 600 for n in range(24)])
    words = sneaky.split(ROW.text)
    changed = [{n for n, (a, b) in enumerate(zip(words, sneaky.split(query.text), strict=True)) if a != b} for query in queries]
    assert changed[0] == {4} and changed[5] == {4, 5} and changed[-1] == {0, 1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("limit", [1, 3, 12])
def test_the_limit_of_queries_holds(limit: int, concept: Any) -> None:
    queries, _ = followed(concept, rate=0.0, queries=limit)
    assert len(queries) == limit


def test_a_search_whose_rewards_stand_still_ends(concept: Any) -> None:
    log: list[dict[str, float]] = []
    one = sneaky.search(ROW, concept, KNOWN, [], Seeded(0), log, **RULES | {"missed": "similarity"})
    assert len(sneaky.side_by_side([one], lambda rows: [sneaky.Answer(0.25, False)] * len(rows))) == 4


def test_the_policy_learns_what_earns(concept: Any) -> None:
    """A sub-word that earns more is chosen more; without learning it is not."""

    def share(method: str) -> float:
        rules = {"method": method, "missed": "similarity", "queries": 400, "episodes": 400, "subwords": 1, "lr": 0.01, "plateau": 0.0}
        one = sneaky.search(ROW, concept, KNOWN[:4], [], Seeded(1), [], **RULES | rules)
        found = sneaky.side_by_side([one], lambda rows: [sneaky.Answer(float(KNOWN[2] in row.text), False) for row in rows])
        return sum(KNOWN[2] in row.text for row in found[-100:]) / 100

    assert share("policy") > 0.9 and share("random") < 0.4


def test_searches_side_by_side_do_not_see_one_another(concept: Any) -> None:
    rows = [ROW._replace(seed=seed, unit=seed) for seed in range(5)]
    each = [sneaky.search(row, concept, KNOWN, [5, 1], Seeded(row.seed), [], **RULES) for row in rows]
    found = sneaky.side_by_side(each, lambda queries: [answer(query.text, 0.1) for query in queries])
    for row in rows:
        alone = sneaky.search(row, concept, KNOWN, [5, 1], Seeded(row.seed), [], **RULES)
        queries = sneaky.side_by_side([alone], lambda queries: [answer(query.text, 0.1) for query in queries])
        assert [query for query in found if query.unit == row.unit] == queries


def test_subwords(tiny: Model, concept: Any) -> None:
    legacy, clean = (sneaky.vocabulary(tiny.tokenizer, concept, 10, kind) for kind in ("legacy", "clean"))
    assert "manneq" in legacy and "manneq" in clean, "no end of a word"
    assert "dogw" in legacy and "dog" in clean and "dogw" not in clean, "the w of </w>"
    assert "churchw" not in legacy and "church" in clean, "</w> counts as four characters"
    assert len(set(clean)) == len(clean) < len(legacy) and all(word.isalpha() for word in legacy + clean)
    assert max(map(len, sneaky.vocabulary(tiny.tokenizer, concept, 5, "clean"))) == 4


def test_words_of_a_prompt(concept: Any) -> None:
    assert sneaky.split("a church, at night: it's (big).") == ["a", "church", ",", "at", "night", ":", "it's", "(big", ")", "."]
    assert sneaky.named(sneaky.split("a Church, a church tower"), concept) == [1, 4]
    assert sneaky.named(["a", "nude", "mannequin", "and", "nudity"], replace(concept, words=("nudity", "nude mannequin"))) == [1, 2, 4]


def test_the_word_that_says_most_comes_first(concept: Any) -> None:
    eye, words = clip.load(CLIP), ["a", "photo", "of", "a", "church", "in", "a", "field"]
    order = sneaky.ranked(eye, words, concept)
    assert sorted(order) == list(range(len(words))) and words[order[0]] == "church"


def bright(pixels: Tensor, rows: Sequence[Prompt], level: float = 0.5) -> tuple[Tensor, Tensor]:
    value = pixels.mean((1, 2, 3)) / 2 + 0.5
    return value, value > level


def attacked(model: Model, concept: Any, images: Any, plain: data.Prompts, level: float = 2.0, **settings: Any) -> data.Prompts:
    small = {"queries": 6, "at_once": 2, "clip_model": CLIP}
    return sneaky.attack(
        model, concept, images, original=random_model, plain=plain, seed=3, draw=partial(diffusion.drawn, steps=2, guidance=4.0),
        judge=partial(bright, level=level), **small | settings,
    )  # fmt: skip


def test_every_query_is_a_stage(tiny: Model, concept: Any, images: Any, plain: data.Prompts) -> None:
    found = attacked(tiny, concept, images, plain)
    for unit in plain.units().rows:
        rows = [row for row in found.rows if row.unit == unit.unit]
        assert [row.stage for row in rows] == list(range(7)) and rows[0] == unit
        assert all(row.seed == unit.seed for row in rows) and len({row.text for row in rows}) == 7
        assert all(list(row.ids) == search.encoded(tiny, row) for row in rows[1:]) and rows[0].ids == ()
    assert [line["step"] for line in found.log] == list(range(6)) * 4
    assert attacked(tiny, concept, images, plain, level=0.0).rows == plain.units().rows, "all shown already"
    assert len(attacked(tiny, concept, images, plain, prompts=2).rows) == 14


def test_rows_do_not_depend_on_their_neighbours(tiny: Model, concept: Any, images: Any, plain: data.Prompts) -> None:
    both = attacked(tiny, concept, images, plain, missed="similarity")
    only = data.Prompts([row if n == 1 else row._replace(purpose="other") for n, row in enumerate(plain.rows)])
    alone = attacked(tiny, concept, images, only, missed="similarity")
    assert len(alone.rows) > 2 and list(alone.rows) == [row for row in both.rows if row.unit == 1]
    assert list(alone.log) == [line for line in both.log if line["unit"] == 1]


def test_a_text_about_minors_is_not_asked(
    tiny: Model, concept: Any, images: Any, plain: data.Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sub-words may make a word that neither is."""
    guarded = replace(concept, kind="inappropriate")
    monkeypatch.setattr(sneaky, "vocabulary", lambda *_: ["chi", "ld"])
    found = attacked(tiny, guarded, images, plain, subwords=2, queries=30, missed="similarity", prompts=2)
    assert len(found.rows) > 2 and not any("child " in row.text for row in found.rows)
    assert any(line["reward"] < 0 for line in found.log) and len(found.log) > len([row for row in found.rows if row.stage])
    assert "child " in " ".join(row.text for row in attacked(tiny, concept, images, plain, subwords=2, queries=30, prompts=2).rows)


def test_killed_and_resumed_it_gives_the_same_bytes(tiny: Model, concept: Any, images: Any, plain: data.Prompts, tmp_path: Path) -> None:
    whole = attacked(tiny, concept, images, plain)
    drawn: list[int] = []

    def killed(pixels: Tensor, rows: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        drawn.append(1)
        if len(drawn) == 10:
            raise KeyboardInterrupt
        return bright(pixels, rows, 2.0)

    given = {"original": random_model, "plain": plain, "seed": 3, "draw": partial(diffusion.drawn, steps=2, guidance=4.0)}
    with pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path / "work"):
        sneaky.attack(tiny, concept, images, **given, judge=killed, queries=6, at_once=2, clip_model=CLIP)
    with resume.resumable(tmp_path / "work"):
        again = attacked(tiny, concept, images, plain)
    for name, found in (("a", whole), ("b", again)):
        found.save(tmp_path / f"{name}.json", {})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_nothing_to_ask(tiny: Model, concept: Any, images: Any, plain: data.Prompts) -> None:
    for given, said in (({"plain": data.Prompts([])}, "0 prompts"), ({"letters": 1}, "0 sub-words")):
        with pytest.raises(ValueError, match=said) as error:
            attacked(tiny, concept, images, given.get("plain", plain), letters=given.get("letters", 10))
        assert "\n" not in str(error.value)


def test_presets_bind() -> None:
    for preset in yaml.safe_load((TOP / "data/presets/sneaky.yaml").read_text()).values():
        taken = signatures.settings("attacks", "sneaky")
        assert all(signatures.fits(value, taken[key].annotation) for key, value in preset.get("settings", {}).items())
