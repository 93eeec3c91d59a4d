"""Ring-A-Bell: the concept vector, the genetic search against the plain one (tests/plain/ring_a_bell.py), its sharing, and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model
from plain import ring_a_bell as plainly
from safetensors.torch import save_file
from torch import Tensor

from palimpsest import data, scores
from palimpsest.attacks import ring_a_bell
from palimpsest.attacks.ring_a_bell import Search, attack, concept_vector, evolved
from palimpsest.diffusion import encode
from palimpsest.draws import Seeded
from palimpsest.resume import Part, Shares, resumable
from palimpsest.types import Model

SIZE = Search(k=5, population=20, generations=12, crossover_rate=0.5, mutation_rate=0.25, batch=16)
SMALL: dict[str, Any] = {"k": 4, "population": 10, "generations": 5, "batch": 8, "at_once": 2}


class Killed(Exception):
    pass


class Scripted:
    """Draws that a test has written down, in the order in which they are asked for."""

    def __init__(self, *values: list[int]) -> None:
        self.values = [torch.tensor(value) for value in values]

    def integers(self, high: int, *shape: int) -> Tensor:
        value = self.values.pop(0)
        assert value.shape == shape and value.max() < high
        return value

    def categorical(self, p: Tensor) -> Tensor:
        value = self.values.pop(0)
        assert len(value) == len(p)
        return value

    noise = integers


@pytest.fixture
def aims(tiny: Model, concept: data.Concept) -> Tensor:
    c = concept_vector(tiny, None, ring_a_bell.pairs(concept, None), None)
    return encode(tiny, ["a photo of a church", "a church at night", "a dog in the snow"]) + 2 * c


@pytest.fixture
def choices(tiny: Model, concept: data.Concept) -> Tensor:
    return ring_a_bell.choosable(concept, tiny.tokenizer)


def run(concept: Any, images: Any, plain: data.Prompts, **settings: Any) -> data.Prompts:
    given = {"original": random_model, "plain": plain, "seed": 3, **SMALL, **settings}
    return attack(random_model(), concept, images, **given)


def saved(folder: Path, prompts: data.Prompts) -> bytes:
    prompts.save(folder / "found.json", {})
    return (folder / "found.json").read_bytes()


def test_search_side_by_side_equals_the_plain_one(tiny: Model, aims: Tensor, choices: Tensor) -> None:
    ids, log = evolved(tiny, aims, [Seeded(n) for n in range(3)], choices, SIZE)
    wanted = SIZE._asdict()
    wanted.pop("batch")
    for n in range(3):
        found, losses, _ = plainly.search(tiny, aims[n], Seeded(n), choices.tolist(), **wanted)
        assert ids[n].tolist() == found
        ends = [loss for number, _, loss in log if number == n]
        torch.testing.assert_close(torch.tensor(ends), torch.tensor([losses[0], losses[-1]]), rtol=1e-5, atol=0)
        assert losses[-1] < losses[0]


def test_a_prompt_does_not_depend_on_its_neighbours(tiny: Model, aims: Tensor, choices: Tensor) -> None:
    together, log = evolved(tiny, aims, [Seeded(n) for n in range(3)], choices, SIZE)
    alone, own = evolved(tiny, aims[1:2], [Seeded(1)], choices, SIZE)
    assert torch.equal(together[1:2], alone)
    assert [row[1:] for row in log if row[0] == 1] == [row[1:] for row in own]


def test_what_is_known_is_not_measured_again(tiny: Model, aims: Tensor, choices: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, measure = [], ring_a_bell.distances
    monkeypatch.setattr(ring_a_bell, "distances", lambda model, ids, *rest: rows.append(len(ids)) or measure(model, ids, *rest))
    evolved(tiny, aims[:1], [Seeded(0)], choices, SIZE)
    wanted = SIZE._asdict()
    wanted.pop("batch")
    *_, read = plainly.search(tiny, aims[0], Seeded(0), choices.tolist(), **wanted)
    assert sum(rows) < 0.7 * read


def test_remembered_distances_are_the_measured_ones(tiny: Model, aims: Tensor, choices: Tensor) -> None:
    herd = choices[torch.randint(len(choices), (6, 5), generator=torch.Generator().manual_seed(0))]
    known: list[dict[bytes, float]] = [{}]
    ring_a_bell.measured(tiny, [herd[:4]], aims[:1], known, 4)
    again = ring_a_bell.measured(tiny, [herd[[5, 2, 2, 0]]], aims[:1], known, 4)[0]
    torch.testing.assert_close(again, torch.tensor(plainly.fitness(tiny, herd[[5, 2, 2, 0]].tolist(), aims[0])))
    assert len(known[0]) == 3, "those of this generation only"


def test_distance_is_smallest_at_the_prompt_itself(tiny: Model, choices: Tensor) -> None:
    """With eta = 0 the prompt's own tokens are at distance zero, all others further."""
    own = torch.tensor([tiny.tokenizer("a photo of a church", add_special_tokens=False).input_ids])
    others = choices[torch.randint(len(choices), (30, own.shape[1]), generator=torch.Generator().manual_seed(0))]
    aim = encode(tiny, ["a photo of a church"])
    found = ring_a_bell.distances(tiny, torch.cat([own, others]), aim, torch.zeros(31, dtype=torch.long), 8)
    assert found[0] < 1e-6 and found[1:].min() > 1e-3


def test_parents_and_children_come_as_published() -> None:
    parents = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = ring_a_bell.crossed(Scripted([1, 0], [1, 0], [2, 0]), parents, 0.5)
    assert found.tolist() == [[1, 2, 3], [1, 2, 6], [4, 5, 3], [4, 5, 6]]
    whole = ring_a_bell.crossed(Scripted([0, 1], [0, 0], [0, 0]), parents, 0.5)  # the first cut exchanges everything
    assert whole.tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3], [4, 5, 6]]


def test_one_token_of_those_that_the_coin_names_changes() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = ring_a_bell.mutated(Scripted([0, 1], [0, 2], [1, 1]), ids, torch.tensor([70, 80]), 0.25)
    assert found.tolist() == [[1, 2, 3], [4, 5, 80]] and ids.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_concept_vector_is_the_mean_over_pairs(tiny: Model) -> None:
    rows = [("a church", "a tree"), ("a church at sea", "a tree at sea"), ("a church", "a dog")]
    added = [encode(tiny, [a])[0] - encode(tiny, [b])[0] for a, b in rows]
    torch.testing.assert_close(concept_vector(tiny, None, rows, None), sum(added) / 3)
    torch.testing.assert_close(concept_vector(tiny, None, rows, 2), ((added[0] + added[1]) / 2 + added[2]) / 2)  # RECE's mean of means
    assert concept_vector(tiny, None, rows, None)[0].abs().max() < 1e-6, "nothing stands before the first token"


@pytest.mark.parametrize("names", ring_a_bell.PAIRS)
def test_pairs_from_a_file(names: tuple[str, str], concept: data.Concept, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(f'{names[0]},case_number,{names[1]}\n"a church, at sea",0,a tree\na church,1, a dog \n')
    assert ring_a_bell.pairs(concept, str(tmp_path / "pairs.csv")) == [["a church, at sea", "a tree"], ["a church", "a dog"]]


@pytest.mark.parametrize("end", ["npy", "safetensors"])
def test_a_vector_from_a_file(end: str, tiny: Model, concept: data.Concept, images: Any, plain: data.Prompts, tmp_path: Path) -> None:
    value, file = torch.randn(1, 24, 32), tmp_path / f"vector.{end}"
    np.save(file, value.numpy()) if end == "npy" else save_file({"church": value}, file)
    found = run(concept, images, plain, form="soft", eta=0.5, vector_file=str(file))
    row = plain.units(1).rows[0]
    torch.testing.assert_close(found.vectors["ring-a-bell-0"], (encode(tiny, [row.text]) + 0.5 * value)[0])
    pairless = replace(concept, texts={})
    assert run(pairless, images, plain, form="soft", eta=0.5, vector_file=str(file)).vectors.keys() == found.vectors.keys()


def vectors(folder: Path) -> Iterator[Path]:
    """Files that hold no concept vector, and yet are there."""
    for name in ("empty.npy", "empty.safetensors", "garbage.npy", "garbage.safetensors", "vector.npz"):
        (folder / name).write_bytes(b"" if name.startswith("empty") else b"no vector at all")
        yield folder / name
    save_file({}, folder / "nothing.safetensors")
    save_file({"a": torch.zeros(24, 32), "b": torch.zeros(24, 32)}, folder / "two.safetensors")
    yield from (folder / "nothing.safetensors", folder / "two.safetensors")
    wrong = {
        "text": np.full((24, 32), "a"),
        "nan": np.full((24, 32), np.nan),
        "complex": np.zeros((24, 32), complex),
        "object": np.array([{}]),
    }
    for name, value in wrong.items():
        np.save(folder / f"{name}.npy", value, allow_pickle=True)
        yield folder / f"{name}.npy"


@pytest.mark.filterwarnings("error")
def test_what_is_no_vector_is_named_in_one_line(tmp_path: Path) -> None:
    for file in vectors(tmp_path):
        with pytest.raises(ValueError) as caught:
            ring_a_bell.read_vector(str(file), torch.Size([24, 32]))
        assert str(caught.value).startswith(f"vector_file: {file} ") and "\n" not in str(caught.value)
    np.save(tmp_path / "vector.npy", np.ones((24, 32), np.float16))
    (tmp_path / "vector.npy").rename(tmp_path / "VECTOR.NPY")
    assert torch.equal(ring_a_bell.read_vector(str(tmp_path / "VECTOR.NPY"), torch.Size([24, 32])), torch.ones(24, 32))


@pytest.mark.parametrize("seed", ["seven", "-5", "1.0e5", str(2**63), "7.5"])
def test_a_seed_that_is_none_is_named_with_its_row(seed: str, concept: Any, images: Any, plain: data.Prompts, tmp_path: Path) -> None:
    file = tmp_path / "found.csv"
    file.write_text(f"prompt,evaluation_seed\nfirst,7\n,x\nthird,{seed}\n")
    with pytest.raises(ValueError, match=f"prompts_file: {file}, row 4, has '{seed}' for a seed; write a whole number below"):
        run(concept, images, plain, prompts_file=str(file))
    file.write_text(f"prompt, evaluation_seed\nfirst,{seed}\n")
    with pytest.raises(ValueError, match=f"prompts_file: {file}, row 1, names a column ' evaluation_seed'; take out the blanks"):
        run(concept, images, plain, prompts_file=str(file))


def test_scores_of_no_pictures_are_one_line(images: data.Images) -> None:
    """As where all that an attack found was about minors."""
    with pytest.raises(ValueError, match="images: there are none to look at"):
        scores.together({}, images.only("nothing"), None)


def test_soft_form_asks_with_the_embedding_itself(tiny: Model, concept: data.Concept, images: Any, plain: data.Prompts) -> None:
    found = run(concept, images, plain, form="soft", eta=2.0)
    rows = plain.units().rows
    aim = encode(tiny, [row.text for row in rows]) + 2 * concept_vector(tiny, None, ring_a_bell.pairs(concept, None), None)
    assert [row.text for row in found.rows] == [f"<ring-a-bell-{row.unit}>" for row in rows]
    torch.testing.assert_close(torch.stack([found.vectors[row.text[1:-1]] for row in found.rows]), aim)


class Vocabulary:
    """A tokenizer with a few words, as far as a search asks one."""

    words = ("!</w>", "a</w>", "girl</w>", "nude</w>", "kids</w>", "<end>")
    all_special_ids = (5,)

    def __len__(self) -> int:
        return len(self.words)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.words[n] for n in ids]


def test_what_a_search_may_choose(tiny: Model, concept: data.Concept) -> None:
    assert set(range(len(tiny.tokenizer))) - set(ring_a_bell.choosable(concept, tiny.tokenizer).tolist()) == {0, 1}  # begin and end
    assert ring_a_bell.choosable(concept, Vocabulary()).tolist() == [1, 2, 3, 4]
    assert ring_a_bell.choosable(replace(concept, kind="inappropriate"), Vocabulary()).tolist() == [1, 3]


@pytest.mark.parametrize("by", ["text", "ids"])
def test_what_is_asked_and_what_is_lost_in_its_text(by: str, concept: Any, images: Any, plain: data.Prompts) -> None:
    model = random_model()
    found = run(concept, images, plain, by=by)
    same = {line["unit"]: line["same_tokens"] for line in found.log if "same_tokens" in line}
    for row in found.rows:
        assert (
            row.by == by and len(row.ids) == SMALL["k"] and row.text == model.tokenizer.decode(row.ids, clean_up_tokenization_spaces=True)
        )
        assert same[row.unit] == (model.tokenizer(row.text, add_special_tokens=False).input_ids == list(row.ids))


def test_prompts_of_a_file_are_asked_as_they_stand(concept: Any, images: Any, plain: data.Prompts, tmp_path: Path) -> None:
    file = tmp_path / "found.csv"
    rows = 'prompt,case_number,evaluation_seed\n"gun \ufffd, bleed ",0,41\nsecond,1,\n,2,5\nthird,3,7.0\nlast\n'
    file.write_text(rows, encoding="utf-8-sig")  # as spreadsheets save it
    found = run(concept, images, plain, prompts_file=str(file), original=lambda: pytest.fail("loaded for nothing"))
    asked = [("gun \ufffd, bleed", 41, -1, 1), ("second", 4, -1, 1), ("third", 7, -1, 1), ("last", 7, -1, 1)]
    assert [(row.text, row.seed, row.unit, row.stage) for row in found.rows] == asked
    with resumable(tmp_path / "work", Part(1, 2)):
        run(concept, images, plain, prompts_file=str(file))
        pytest.fail("a part of the job has no result")


def test_killed_and_started_again_gives_the_same_bytes(
    concept: Any, images: Any, plain: data.Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, search, calls = saved(tmp_path, run(concept, images, plain)), ring_a_bell.evolved, []

    def breaks(*given: Any) -> Any:
        calls.append(len(given[1]))
        if len(calls) == 2:
            raise Killed
        return search(*given)

    monkeypatch.setattr(ring_a_bell, "evolved", breaks)
    with pytest.raises(Killed), resumable(tmp_path / "work"):
        run(concept, images, plain)
    with resumable(tmp_path / "work"):
        again = run(concept, images, plain)
    assert saved(tmp_path, again) == expected and calls == [2, 2, 2], "the first two prompts are searched once"


@pytest.mark.parametrize("form", ["tokens", "soft"])
def test_methods_share_one_search(form: str, concept: Any, images: Any, plain: data.Prompts, tmp_path: Path) -> None:
    def job(name: str, original: Callable[[], Model], **settings: Any) -> data.Prompts:
        with resumable(tmp_path / name, shares=Shares("the same but for the method", [], tmp_path / "shared")):
            return run(concept, images, plain, original=original, form=form, **settings)

    loaded: list[Model] = []
    first = job("uce", lambda: loaded.append(random_model()) or loaded[-1])
    second = job("esd", lambda: pytest.fail("loaded for nothing"))
    assert len(loaded) == 1 and saved(tmp_path, first) == saved(tmp_path, second)
    other = job("esd again", random_model, eta=1.0)
    assert saved(tmp_path, other) != saved(tmp_path, first)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"pairs_file": "nowhere.csv"}, "pairs_file: nowhere.csv is not there"),
        ({"vector_file": "nowhere.npy"}, "vector_file: nowhere.npy is not there"),
        ({"prompts_file": "nowhere.csv"}, "prompts_file: nowhere.csv is not there"),
        ({"k": 23}, "at most 22 tokens fit"),
        ({"population": 1}, "population"),
    ],
)
def test_bad_settings_are_told_in_one_line(settings: dict[str, Any], said: str, concept: Any, images: Any, plain: data.Prompts) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        run(concept, images, plain, **settings)
    assert "\n" not in str(caught.value)


def test_bad_files_are_told_in_one_line(concept: data.Concept, images: Any, plain: data.Prompts, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "latin.csv").write_text("prompt\nfa\u00e7ade\n", encoding="latin-1")
    (tmp_path / "blank.csv").write_text("prompt,evaluation_seed\n,1\n  ,2\n")
    save_file({"c": torch.zeros(77, 768)}, tmp_path / "large.safetensors")
    for key, name, said in [
        ("pairs_file", "empty.csv", "pairs_file: .* has no rows; write some"),
        ("pairs_file", "other.csv", "no rows with the columns prompt, prompt1"),
        ("prompts_file", "empty.csv", "prompts_file: .* has no rows; write some"),
        ("prompts_file", "blank.csv", "has a prompt in none of its rows"),
        ("prompts_file", "latin.csv", "prompts_file: .* is no CSV in UTF-8"),
        ("vector_file", "large.safetensors", r"is \(77, 768\), not \(24, 32\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            run(concept, images, plain, **{key: str(tmp_path / name)})
    with pytest.raises(ValueError, match="none of the plain prompts should show the concept"):
        run(concept, images, data.Prompts([]))
    lone = replace(concept, texts={"pool": ["a church"]})
    with pytest.raises(ValueError, match="of pool and anchors in its prompts one is longer; make them again"):
        run(lone, images, plain)
    with pytest.raises(ValueError, match="hold no pairs"):
        run(replace(concept, texts={}), images, plain)
