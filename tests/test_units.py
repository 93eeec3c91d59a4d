"""The unit table: what every published success rate is derived from."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import torch

from palimpsest import data
from palimpsest.data import Prompt, Prompts
from palimpsest.diffusion import drawn, encode
from palimpsest.report import page, units
from palimpsest.types import Model
from palimpsest.workflow import plan

DETECTOR = {"score": "objects", "classes": ["church"], "threshold": 0.5}


def scored(rows: list[Prompt], shown: list[bool]) -> data.Scores:
    return data.Scores({"objects": torch.tensor([[0.9, 0.1] if s else [0.2, 0.8] for s in shown])}, {"objects": ["church", "dog"]}, rows)


def test_published_rates_come_from_the_looks() -> None:
    """Four units: shown plainly, won at a checkpoint, won never, and shown plainly but only at stage 0."""
    plain = scored([Prompt("a dog", 9, "other"), *[Prompt(f"church {n}", n) for n in range(4)]], [False, True, False, False, True])
    found = [(1, 0, True), (1, 1, True), (2, 0, False), (2, 1, False), (2, 2, True), (3, 0, False), (3, 1, False), (4, 0, True)]
    rows = [Prompt(f"church {u - 1} x", u - 1, unit=u, stage=s, ids=(5, s), by="ids") for u, s, _ in found]
    looks = units.looks(scored(rows, [shown for _, _, shown in found]), plain, DETECTOR)
    won = units.success(looks)
    assert [(r.percent, r.n) for r in won] == [(75, 4), (50, 4), (50, 2)]
    text = units.as_csv([({"method": "uce", "base": "mini", "seed": 0, "attack": "x"}, looks)])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 8 and lines[4]["picture seed"] == "1" and lines[4]["seed"] == "0" and lines[4]["by"] == "ids"
    assert [line["positive"] for line in lines] == ["1", "1", "0", "0", "1", "0", "0", "1"]
    assert lines[2]["pre_positive"] == "0" and lines[0]["pre_positive"] == "1" and float(lines[0]["score"]) == pytest.approx(0.9)


def test_more_checkpoints_never_lower_a_rate() -> None:
    torch.manual_seed(0)
    rows = [Prompt("c", n, unit=n, stage=s) for n in range(10) for s in range(6)]
    looks = units.looks(scored(rows, (torch.rand(60) < 0.15).tolist()), scored([Prompt("c", n) for n in range(10)], [False] * 10), DETECTOR)
    rates = [units.success([look for look in looks if look.stage <= last]).asr.percent for last in range(6)]
    assert rates == sorted(rates) and rates[0] < rates[-1]


def test_an_attack_that_names_no_prompt_counts_pictures() -> None:
    looks = units.looks(scored([Prompt("c", 1), Prompt("d", 2)], [True, False]), scored([Prompt("a", 1)], [False]), DETECTOR)
    won = units.success(looks)
    assert won.asr.percent == 50 and won.pre.n == won.conditional.n == 0


def test_the_page_shows_of_each_unit_what_it_came_to(tmp_path: Path) -> None:
    rows = [Prompt("c", n, unit=n, stage=s) for n in range(3) for s in range(3)]
    images = data.Images([data.Picture("", "here", row) for row in rows], tmp_path)
    hits = [False, True, True, False, False, False, True, False, False]
    assert page.examples(images, hits, True) == [1, 5, 6]
    plain = data.Images([data.Picture("", "here" if n != 1 else "", Prompt("c", n)) for n in range(4)], tmp_path)
    assert page.examples(plain, [False] * 4, True) == [0, 2, 3]  # one lies on no disk


def test_ids_ask_for_what_their_text_asks(tiny: Model) -> None:
    text = "a photo of a church"
    ids = tuple(tiny.tokenizer(text, add_special_tokens=False).input_ids)
    assert torch.equal(encode(tiny, [ids]), encode(tiny, [text]))
    assert Prompt(text, 1, ids=ids, by="ids").asked == ids and Prompt(text, 1, ids=ids).asked == text


def test_a_word_as_long_as_the_context_is_the_context_itself(tiny: Model) -> None:
    context = encode(tiny, ["a church at sea"])[0]
    found = encode(tiny, ["<whole>", "a church at sea", "a <short> dog"], {"whole": context * 2, "short": torch.zeros(2, 32)})
    assert torch.equal(found[0], 2 * context)
    torch.testing.assert_close(found[1], context)
    rows = [Prompt("<whole>", 3), Prompt("a church at sea", 3)]
    asked = drawn(tiny, Prompts(rows, {"whole": context}), steps=2, guidance=4.0, batch=2)
    torch.testing.assert_close(asked[0], asked[1])


def test_a_row_of_an_attack_survives_the_disk_and_a_plain_one_says_no_more_than_it_did(tmp_path: Path) -> None:
    rows = [Prompt("a church", 1), Prompt("x", 2, unit=0, stage=3, ids=(4, 5), by="ids")]
    Prompts(rows).save(tmp_path / "p.json", {})
    assert list(Prompts.load(tmp_path / "p.json").rows) == rows
    assert list(rows[0].fields()) == ["text", "seed", "purpose", "shows", "style"]


def test_scores_of_an_attack_do_not_say_what_it_asks() -> None:
    plain, found = Prompt("a church", 1), Prompt("x", 2, unit=0, stage=3, ids=(4, 5), by="ids")
    assert plain.wordless() == plain
    assert found.wordless() == Prompt("", 2, unit=0, stage=3, by="ids")


def test_units_are_the_prompts_that_should_show_the_concept() -> None:
    plain = Prompts([Prompt("dog", 5, "other"), Prompt("church", 6), Prompt("castle", 7, "near"), Prompt("church", 8)])
    assert [(row.unit, row.seed) for row in plain.units().rows] == [(1, 6), (3, 8)] and len(plain.units(1).rows) == 1


def test_an_attack_that_looks_at_pictures_reads_sampler_and_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.workflow import params, signatures

    monkeypatch.chdir(Path(__file__).parents[1])
    settings = params.load()
    names = {"concept": "church", "method": "uce", "base": "mini", "seed": "0", "attack": "cce"}
    assert not {"sampler", "detector"} & set(plan.plan("attack", names, settings))
    monkeypatch.setattr(signatures, "given", lambda *_: {"judge"})
    read = plan.plan("attack", names, settings)
    assert (
        read["sampler"] == {"steps": 20, "guidance": 4.0}
        and read["detector"]["classes"] == ["church"]
        and list(read["scores"]) == ["objects"]
    )


def test_what_an_attack_lost_is_said_beside_its_budget() -> None:
    """Searches say of each text whether it is read as the found tokens again, each in its own word; and the record, what was dropped."""
    searched = {"record": {}, "log": [{"unit": 0, "same": 1.0}, {"unit": 0, "same": 0.0}, {"unit": 1, "dropped_tokens": 80}]}
    others = {"record": {"dropped": {"texts": 3, "units": 1}}, "log": [{"unit": 0, "same_tokens": 1.0}]}
    assert units.losses({"uce": searched, "esd": others, "ca": {"record": {"dropped": {"texts": 2}}}}) == [
        "Texts that are read as other tokens than were found: uce 1 of 2, esd 0 of 1",
        "Texts dropped for a word for a minor: esd 3 (prompts with no other: 1), ca 2",
    ]
    assert units.losses({"uce": {"record": {}, "log": [{"step": 0, "loss": 1.0}]}}) == units.losses({}) == []
