"""Tables and the page: right numbers from known scores, nothing sensitive in the clear."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, on_disk
from PIL import Image

from palimpsest import data, edits
from palimpsest.files import write_json
from palimpsest.judge import detected
from palimpsest.report import figures, loops, measures, page, phenomena, sweep, table, tables
from palimpsest.workflow import params, paths

DETECTOR = {"score": "objects", "classes": ["church"], "threshold": 0.5}
COST = {"seconds": 1.5, "peak_memory_mb": 10}
MEANING = {"objects": ["church", "dog", "none"], "features": "FID-mini", "perceptual": "LPIPS-mini"}


def cell(shares: list[float]) -> data.Scores:
    """Scores of two pictures of churches, judged with these shares, and two of dogs, judged rightly and wrongly."""
    prompts = [data.Prompt("a church", n) for n in range(2)] + [
        data.Prompt("a dog", 10 + n, "near" if n else "other", "dog") for n in range(2)
    ]
    objects = torch.tensor([[s, 0.0, 1 - s] for s in shares] + [[0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])
    torch.manual_seed(0)
    columns = {"objects": objects, "clip_score": torch.tensor([1.0, 1.0, 20.0, 30.0]), "perceptual": torch.tensor([9.0, 9.0, 0.1, 0.3])}
    columns["features"] = torch.randn(4, 3)
    return data.Scores(columns, MEANING, prompts)


def real_pictures() -> data.Scores:
    """Fifty, of which the last five have captions with a word for a minor."""
    prompts = [data.Prompt("a dog" if n < 45 else "a child", n, "other") for n in range(50)]
    return data.Scores({"features": torch.randn(50, 3)}, MEANING, prompts)


def pictures(folder: Path) -> data.Images:
    """Two pictures of noise."""
    rows = [data.Prompt("a church", n) for n in range(2)]
    return on_disk(folder / "manifest.json", rows, [torch.rand(3, 64, 64) * 2 - 1 for _ in rows])


def test_a_row_says_what_the_scores_say() -> None:
    plain, attacked = cell([0.9, 0.2]), cell([0.9, 0.6])
    real = real_pictures()
    row = table.row("uce", "mini", 0, {"none": plain, "cce": attacked}, real, DETECTOR, "inappropriate", COST, {"cce": "a lot"})
    assert row["Ratio"] == 50 and row["Ratio n"] == 2 and row["Score"] == pytest.approx(55)
    assert row["CLIP-Score"] == 25 and row["LPIPS-mini"] == pytest.approx(0.2) and row["LPIPS-mini near"] == pytest.approx(0.3)
    assert row["FID-mini"] == pytest.approx(measures.frechet(plain.columns["features"][2:], real.columns["features"][:45]))
    assert row["Others"] == 50 and row["Others n"] == 2 and row["Near"] == 0 and row["Near n"] == 1
    assert row["ASR cce n"] == 4 and row["ASR cce"] == 50 and row["budget cce"] == "a lot" and row["seconds"] == 1.5


def test_a_protocol_may_leave_near_concepts_out_of_what_is_preserved() -> None:
    """Real pictures count whose captions may be asked: for an object all."""
    scores, real = cell([0.9, 0.2]), real_pictures()
    more = [*scores.prompts, *(data.Prompt("a dog", 20 + n, "other", "dog") for n in range(2))]
    columns = {name: torch.cat([one, one[2:3] + 0.5 * torch.rand(2, *one.shape[1:])]) for name, one in scores.columns.items()}
    scores = data.Scores(columns, MEANING, more)
    row = table.row("uce", "mini", 0, {"none": scores}, real, DETECTOR, "object", COST, {}, preserved=["other"])
    rest = torch.tensor([2, 4, 5])
    assert row["CLIP-Score"] == pytest.approx(scores.columns["clip_score"][rest].mean().item())
    assert row["LPIPS-mini"] == pytest.approx(scores.columns["perceptual"][rest].mean().item()) and row["LPIPS-mini near"] == pytest.approx(
        0.3
    )
    assert row["FID-mini"] == pytest.approx(measures.frechet(scores.columns["features"][rest], real.columns["features"]))


SCORES = [([0.9, 0.2], "object", 90.0), ([0.9, 0.2], "style", 90.0), ([0.9, 0.7], "object", 80.0), ([0.1, 0.2], "object", math.nan)]


@pytest.mark.parametrize("shares, kind, wanted", SCORES)
def test_score_is_of_the_pictures_that_count_unless_the_concept_is_inappropriate(shares: list, kind: str, wanted: float) -> None:
    """Dark Miner, Section 4.1; without one there is no score."""
    real = real_pictures()
    row = table.row("uce", "mini", 0, {"none": cell(shares)}, real, DETECTOR, kind, COST, {})
    assert row["Score"] == pytest.approx(wanted, nan_ok=True)


def test_boxes_of_several_labels_count_by_the_largest() -> None:
    columns, meaning = {"nudity": torch.tensor([[0.4, 0.6, 0.9], [0.0, 0.0, 0.9]])}, {"nudity": ["a", "b", "c"]}
    value, positive = detected({"score": "nudity", "classes": ["a", "b"], "take": "max", "threshold": 0.0}, columns, meaning)
    assert value.tolist() == pytest.approx([0.6, 0.0]) and positive.tolist() == [True, False]


def test_prompts_whose_objects_no_judge_knows_have_no_share() -> None:
    scores = cell([0.9, 0.2])
    unknown = data.Scores(scores.columns, scores.meaning, [row._replace(shows="") for row in scores.prompts])
    real = real_pictures()
    row = table.row("uce", "mini", 0, {"none": unknown}, real, DETECTOR, "object", COST, {})
    assert row["Others n"] == row["Near n"] == 0 and math.isnan(row["Others"])


def test_bases_may_have_columns_of_their_own(tmp_path: Path) -> None:
    own = {"method": "uce", "seed": 0}
    table.write(tmp_path / "table.csv", [{**own, "base": "mini", "FID-mini": 1.0}, {**own, "base": "sd14", "FID": 2.0}])
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["FID-mini"], row["FID"]) for row in rows] == [("1.0", ""), ("", "2.0")]


def test_styles_count_by_the_largest_probability() -> None:
    columns, meaning = {"styles": torch.tensor([[0.4, 0.35, 0.25], [0.3, 0.4, 0.3]])}, {"styles": ["van gogh", "plain", "pencil"]}
    value, positive = detected({"score": "styles", "classes": ["van gogh"]}, columns, meaning)
    assert value.tolist() == pytest.approx([0.4, 0.3]) and positive.tolist() == [True, False]


def test_seeds_are_averaged_with_students_interval(tmp_path: Path) -> None:
    rows = [{"method": "uce", "base": "mini", "seed": n, "Ratio": value, "Ratio n": 10} for n, value in enumerate((10.0, 12.0, 17.0))]
    mean, half = table.over_seeds(rows)
    assert mean["seed"] == "mean" and mean["Ratio"] == pytest.approx(13)
    assert half["Ratio"] == pytest.approx(4.302653 * math.sqrt(13) / math.sqrt(3), rel=1e-4)
    table.write(tmp_path / "table.csv", rows)
    assert [row["seed"] for row in csv.DictReader((tmp_path / "table.csv").open())] == ["0", "1", "2", "mean", "+-"]


def contrast(png: str) -> float:
    """Of a picture in a page's text."""
    return torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(png))).convert("L").tobytes())).float().std().item()


def test_pictures_are_blurred_where_they_must_be(tmp_path: Path) -> None:
    images = pictures(tmp_path)
    blurred, clear = (contrast(page.picture(images, 0, True, hidden)["png"]) for hidden in (True, False))
    assert blurred < clear / 4


def test_loops_are_shown_as_they_went(tmp_path: Path) -> None:
    """One that ended without circumventing has no picture behind it; more than fit are thinned out."""
    log = [{"loop": n, "s": 0.9 - n / 100, **({"s_after": n / 100} if n < 20 else {})} for n in range(21)]
    found = {
        f"loop-{n:02d}-{when}": torch.full((2, 3, 8, 8), n + 100 * (when == "after"), dtype=torch.uint8)
        for n in range(20)
        for when in ("before", "after")
    }
    file = tmp_path / "e.json"
    edits.Erasure("nothing", log=log, found=found).save(file, {})
    cost = tmp_path / "c.json"
    cost.write_text('{"seconds": 9, "laps": {"loop-03": 94.6, "loop-04": 1.0}}')
    seen = loops.loops("dm2", file, cost)
    assert seen is not None and seen.before[3] == 0.87 and seen.after[3] == 0.03 and math.isnan(seen.after[20])
    assert list(seen.pairs) == [0, 3, 6, 9, 12, 15, 18] and seen.seconds == {3: 94.6}, "of those that are shown"
    assert [picture.getpixel((0, 0)) for picture in seen.pairs[6]] == [(6, 6, 6), (106, 106, 106)]
    assert "what is mined" in figures.mined(seen)
    cost.write_text('{"seconds": 9}')
    assert all(one and not one.seconds for one in (loops.loops("dm2", file, cost), loops.loops("dm2", file, tmp_path / "missing.json")))
    for other in ([], {"search": log}, [{"step": 0, "loss": 1.0}]):
        edits.Erasure("nothing", log=other).save(file, {})
        assert loops.loops("esd", file, cost) is None
    assert loops.loops("dm2", tmp_path / "missing.json", cost) is None


SIX = ("cce", "p4d", "unlearndiff", "ring_a_bell", "qf", "sneaky")


def test_bars_of_six_attacks_differ() -> None:
    """Other rates have inks of their own; the attacks share one, from full to faint."""
    names = ("Ratio", "Others", *(f"ASR {attack}" for attack in SIX))
    row = {f"{name}{part}": value for name in names for part, value in (("", "50"), (" low", "40"), (" high", "60"))}
    drawn = figures.rates([{"method": method, **row} for method in ("none", "uce")])
    bars = re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="(fill: #[^"]*)"', drawn)
    assert len(bars) == 2 * len(names) and len(set(bars)) == len(names)
    faint = [float(opacity) for opacity in re.findall(r"opacity: ([\d.]+)", "".join(bars))]
    assert all(0.2 < value < 1 for value in faint) and all(f"ASR {attack}" in drawn for attack in SIX)


def sensitive(shareable: bool) -> str:
    """The page of nudity on `mini`, mined by DM2 and attacked by CCE; all pictures are noise."""
    kinds, noise = {"objects": ["mannequin", "none"]}, torch.Generator().manual_seed(0)
    rows = []
    for method in ("none", "dm2"):
        cell = table.Cell("nudity", method, "mini", 0)
        rows.append({"method": method, "base": "mini", "seed": 0, "Ratio": 50.0, "Ratio low": 9.0, "Ratio high": 91.0, "Ratio n": 2})
        rows[-1] |= {"budget cce": "a lot"}
        for attack in ("none", "cce"):
            prompts = [data.Prompt("nudity", n, unit=n if attack == "cce" else data.ALONE, stage=int(attack == "cce")) for n in range(2)]
            data.Scores({"objects": torch.eye(2)}, kinds, prompts).save(Path(paths.scores(*cell, attack)), {})
            log = [{"unit": unit, "step": step, "loss": 1.0, "same": step} for unit in range(2) for step in range(2) if attack == "cce"]
            data.Prompts(prompts, log=log).save(Path(paths.attack(*cell, attack)), {"dropped": {"texts": 3, "units": 1}})
            on_disk(Path(paths.images(*cell, attack)), prompts, [torch.rand(3, 64, 64, generator=noise) * 2 - 1 for _ in prompts])
        found = {
            f"loop-{n:02d}-{when}": torch.randint(256, (1, 3, 64, 64), generator=noise) for n in range(2) for when in ("before", "after")
        }
        log = [{"loop": n, "s": 0.9, "s_after": 0.1} for n in range(2)] if method == "dm2" else []
        found = {name: value.to(torch.uint8) for name, value in found.items()}
        edits.Erasure("nothing", log=log, found=found).save(Path(paths.erasure(*cell)), {})
        write_json(Path(paths.cost(*cell)), {"seconds": 9, "laps": {"loop-01": 94.6}})
    table.write(Path("results/nudity/dm2/table.csv"), rows)
    known = yaml.safe_load((TOP / "params.yaml").read_text()) | {"grid": {"attacks": ["none", "cce"]}}
    known["bases"]["mini"]["shareable"] = shareable
    page.refresh(known)
    return Path(paths.PAGE).read_text()


@pytest.mark.parametrize("shareable", [False, True])
def test_no_picture_of_a_sensitive_concept_is_on_the_page_in_the_clear(
    shareable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the gallery, nor as what an attack or a loop came to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(TOP / "data")
    drawn = sensitive(shareable)
    shown = dict(re.findall(r"<h3>([^<]*)</h3>(.*?)(?=<h[23])", drawn, re.DOTALL))
    contrasts = {title: [contrast(raw) for raw in re.findall(r"<img[^>]*base64,([^\"]*)\"", part)] for title, part in shown.items()}
    assert {title: len(values) for title, values in contrasts.items() if values} == {"How dm2 went": 4, "How cce went": 2, "The concept": 8}
    assert sum(map(len, contrasts.values())) == drawn.count("<img")
    assert all((value > 30) == shareable and (value < 8) != shareable for values in contrasts.values() for value in values)
    assert ("Blurred: the concept is sensitive" in drawn) != shareable


def test_the_page_says_how_long_loops_took_and_what_attacks_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(TOP / "data")
    drawn = sensitive(False)
    assert re.findall("<th>(loop[^<]*)</th>", drawn) == ["loop 0", "loop 1, 95 s"], "where that was counted"
    lost = "none 3 (prompts with no other: 1), dm2 3 (prompts with no other: 1)"
    assert (
        "<b>cce</b>: a lot. Texts that are read as other tokens than were found: none 2 of 4, dm2 2 of 4. " in drawn
        and f"{lost}.</p>" in drawn
    )


def test_a_table_that_is_being_made_again_does_not_stop_the_page_of_another(tmp_path: Path) -> None:
    """Snakemake deletes a table before it makes it again, perhaps between the listing and the reading of another report."""
    assert page.rows(tmp_path / "table.csv") == []
    (tmp_path / "table.csv").write_text("method,base\nuce,mini\n")
    assert page.rows(tmp_path / "table.csv") == [{"method": "uce", "base": "mini"}]


def test_the_page_shows_the_first_base_once_and_reads_its_scores_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(TOP / "data")
    real, scores, rows = real_pictures(), cell([0.9, 0.2]), []
    for base, method in itertools.product(("mini", "mini-without-church"), ("none", "uce")):
        rows.append(table.row(method, base, 0, {"none": scores, "cce": scores}, real, DETECTOR, "object", COST, {"cce": "a lot"}))
        for attack in ("none", "cce"):
            where = ("church", method, base, 0, attack)
            scores.save(Path(paths.scores(*where)), {})
            on_disk(Path(paths.images(*where)), scores.prompts, [torch.zeros(3, 64, 64)] * 4)
    table.write(Path("results/church/uce/table.csv"), rows)
    load, loaded = data.Scores.load, list[Path]()
    monkeypatch.setattr(data.Scores, "load", lambda file: loaded.append(file) or load(file))
    page.refresh(yaml.safe_load((TOP / "params.yaml").read_text()) | {"grid": {"attacks": ["none", "cce"]}, "report": {"examples": 2}})
    drawn = Path(paths.PAGE).read_text()
    assert drawn.count("<img") == 2 * 2 * 2 + 2 * 2 and drawn.count('class="hit"') == 2 * 2
    assert all(drawn.count(f"<td>{line}</td>\n") == n for line, n in (("unedited", 2), ("uce", 2), ("unedited, under cce", 1)))
    assert len(loaded) == len(set(loaded)) == 4


def test_the_page_leaves_out_what_the_project_no_longer_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A concept whose file is gone, a base that has another name; of rows without a Ratio the table stands alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(TOP / "data")
    for concept, base in (("gone", "mini"), ("van_gogh", "renamed"), ("church", "mini"), ("church", "renamed")):
        row = {"method": "uce", "base": base, "seed": 0, "Ratio": math.nan, "skipped": "why not", "budget cce": "a lot"}
        table.write(Path(f"results/{concept}/{base}/table.csv"), [row])
    page.refresh(yaml.safe_load((TOP / "params.yaml").read_text()))
    drawn = Path(paths.PAGE).read_text()
    assert drawn.count("<h2 id=") == drawn.count("<td>uce</td>") == 1 and "renamed" not in drawn and "Skipped: why not." in drawn


def test_fewer_than_two_pictures_have_no_frechet_distance() -> None:
    for n in (0, 1):
        assert math.isnan(measures.frechet(torch.randn(n, 3), torch.randn(5, 3)))
        assert math.isnan(measures.frechet(torch.randn(5, 3), torch.randn(n, 3)))


def test_a_skipped_erasure_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"skipped": "uce is not defined on sd3"}')
    with pytest.raises(ValueError, match=r"e.json holds no erasure, it was skipped: uce is not defined on sd3; take another"):
        edits.load(tmp_path / "e.json")


def test_a_class_that_the_judge_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match=r"asks 'objects' for 'chruch', .* in data/concepts; it has: church, dog, none$"):
        detected({**DETECTOR, "classes": ["chruch"]}, {"objects": torch.rand(2, 3)}, MEANING)


def test_what_the_papers_find_is_held_against_the_means_and_their_intervals() -> None:
    def seeds(method: str, ratios: list[float], won: list[float]) -> list[dict]:
        return [{"method": method, "seed": n, "Ratio": a, "ASR cce": b} for n, (a, b) in enumerate(zip(ratios, won, strict=True))]

    rows = seeds("uce", [10, 11, 12], [80, 81, 82]) + seeds("ca", [10, 11, 12], [10, 60, 8]) + seeds("esd", [9, 9, 9], [5, 6, 7])
    said = tables.findings([*rows, *seeds("dm2", [0, 0, 0], [2, 2, 2])], ["cce"]).splitlines()
    assert said[2:] == [
        "| cce brings it back from uce | shows: 11 against 81, intervals apart |",
        "| cce brings it back from esd | **does not show**: 9 against 6 |",
        "| cce brings it back from ca | shows: 11 against 26 |",
        "| dm2 is harder for cce than all of these | shows: 2 against 6, intervals apart |",
    ]
    assert tables.findings(seeds("dm2", [0, 0, 0], [2, 2, 2]), ["cce"]).count("\n") == 2, "of no weak method nothing is said"


def test_a_lost_picture_is_named_with_its_remedy(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "images/00001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"00001.png is listed in .*dvc pull"):
        data.Images.load(tmp_path / "manifest.json")


def test_table_1_marks_the_best_and_the_second() -> None:
    cells = {"Score": 1.0, "CLIP-Score": 30.0, "FID-mini": 5.0, "Others": 90.0, "ASR cce": 50.0, "ASR cce n": 60, "seconds": 1.0}
    rows = [{"method": m, "Ratio": ratio, **cells} for m, ratio in (("none", 0.0), ("a", 10.0), ("b", 5.0), ("c", 20.0))]
    rows[3] |= {"Others": 95.0, "Score": math.nan}
    page = tables.page("french_horn", rows).splitlines()
    assert page[0] == "## french horn"
    assert page[2] == "| method | Ratio | Score | CLIP-Score | Others | FID-mini | ASR cce (60) | seconds |"
    lines = {line.split(" | ")[0][2:]: line.split(" | ") for line in page[4:]}
    assert [lines[m][1] for m in ("none", "a", "b", "c")] == ["0.0", "*10.0*", "**5.0**", "20.0"]
    assert [lines[m][2] for m in ("none", "a", "b", "c")] == ["1.0", "**1.0**", "**1.0**", "–"]
    assert [lines[m][4] for m in ("none", "a", "b", "c")] == ["90.0", "*90.0*", "*90.0*", "**95.0**"]


@pytest.mark.parametrize("name", ["tables", "phenomena"])
def test_documents_of_prompts_without_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    grid: dict[str, Any] = {"concepts": ["church"], "methods": ["none"], "attacks": ["none"], "seeds": [0]}
    known = params.load() | {"prompts": {"of": "grammar"}, "table1": grid, "phenomena": grid | {"concepts": []}}
    cells = dict.fromkeys(("Ratio", "Score", "CLIP-Score", "Others", "FID-mini", "seconds"), 1.0)
    monkeypatch.setattr(table, "of_cell", lambda cell, *_: {"method": cell.method, **cells})
    main, written = runpy.run_path(f"scripts/{name}.py")["main"], list[str]()
    main.__globals__["write_text"] = lambda _, text: written.append(text)
    main(SimpleNamespace(section="table1", params=known))
    assert "60" in written[0] and "100" in written[0]


def test_a_table_over_seeds_shows_mean_and_interval() -> None:
    cells = {"Score": 1.0, "CLIP-Score": 30.0, "FID-mini": 5.0, "Others": 90.0, "Styles": 50.0, "Styles n": 9, "seconds": 1.0}
    rows = [
        {"method": m, "seed": s, "Ratio": ratio + 2 * s, **cells}
        for m, ratio in (("none", 90.0), ("a", 10.0), ("b", 30.0))
        for s in range(3)
    ]
    lines = tables.page("church", rows).splitlines()
    half = 4.302653 * 2 / math.sqrt(3)
    assert lines[2] == "| method | Ratio | Score | CLIP-Score | Others | Styles | FID-mini | seconds |"
    assert [line.split(" | ")[1] for line in lines[4:]] == [f"92.0 ± {half:.1f}", f"**12.0** ± {half:.1f}", f"*32.0* ± {half:.1f}"]
    assert "3 seeds" in tables.head("robustness", 60, 100, 3) and "one seed" in tables.head("table1", 60, 100, 1)
    assert tables.allowed({"cce": "white box; much"}).endswith("- cce: white box; much.\n")


@pytest.mark.parametrize(("floor", "below"), [(20.0, "shows"), (60.0, "**does not show**")])
def test_phenomena_are_held_against_the_means_and_every_seed_is_named(floor: float, below: str) -> None:
    same = {"Others": 90.0, "Near": 100.0, "LPIPS-mini": 0.1, "seconds": 1.0}
    measured = {"none": (100, [100, 100]), "uce": (10, [80, 80]), "esd": (30, [70, 90]), "dm2": (0, [30, 50]), "dm2-plain": (0, [30, 40])}
    rows = [{"method": m, "Ratio": float(ratio), "ASR cce": float(asr), **same} for m, (ratio, rates) in measured.items() for asr in rates]
    lines = phenomena.page("church", rows, [floor, floor]).splitlines()
    assert "| dm2 | 0.0 ± 0.0 | 90.0 ± 0.0 | 100.0 ± 0.0 | 40.0 ± 127.1 | 0.10 ± 0.00 | 1.0 ± 0.0 |" in lines
    assert f"| model that never saw it | | | | {floor:.1f} ± 0.0 | | |" in lines
    found = dict(line.strip("| ").split(" | ") for line in lines[lines.index("| what the papers say | here |") + 2 : -2])
    assert list(found.values()) == ["shows", "**does not show**", "shows", "shows", "shows", "**does not show**", below]
    assert lines[-1] == "ASR under CCE, each seed: none 100, 100; uce 80, 80; esd 70, 90; dm2 30, 50; dm2-plain 30, 40."
    assert not any("never saw" in line for line in phenomena.page("church", rows, []).splitlines())


def test_styles_are_kept_where_the_judge_sees_what_was_asked() -> None:
    scores = cell([0.9, 0.2])
    styles = torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    prompts = [row._replace(style=style) for row, style in zip(scores.prompts, ("plain", "plain", "crayon", "crayon"), strict=True)]
    meaning = {**MEANING, "styles": ["plain", "crayon", "pencil"]}
    scores = data.Scores({**scores.columns, "styles": styles}, meaning, prompts)
    real = real_pictures()
    row = table.row("uce", "mini", 0, {"none": scores}, real, DETECTOR, "object", COST, {})
    assert row["Styles"] == 50 and row["Styles n"] == 2


def test_a_table_that_lacks_a_new_column_is_shown_without_it() -> None:
    new = {"method": "uce", "Ratio": "12.5", "Ratio low": "5", "Ratio high": "20", "Ratio n": "60"}
    old = {key: value for key, value in new.items() if not key.startswith("Ratio")}
    assert page.shown(new, "Ratio") == ("12.5", "5–20, n 60") and page.shown(old, "Ratio") == ("", "")
    assert "uce" in figures.rates([new, {**new, "method": "esd"}])
    assert "uce" in figures.rates([new, {**new, "method": "esd", "Others": "", "Others low": "", "Others high": ""}]), "nothing was counted"


def test_ratio_against_the_threshold() -> None:
    """It falls with it, meets the table's own at the table's threshold, and every reading of the detector has a panel."""
    scores, detector = cell([0.9, 0.2]), {**DETECTOR, "readings": {"dogs too": ["church", "dog"]}}
    first, other = sweep.panels(detector, {"none": scores, "uce": cell([0.3, 0.1])})
    assert (first.reading, first.used, other.reading, other.used) == ("as in the table", 0.5, "dogs too", None)
    for panel in (first, other):
        assert [line.method for line in panel.lines] == ["none", "uce"]
        assert all(a >= b for line in panel.lines for a, b in zip(line.ratios, line.ratios[1:], strict=False))
    real = real_pictures()
    row = table.row("none", "mini", 0, {"none": scores}, real, DETECTOR, "object", COST, {})
    assert first.lines[0].ratios[sweep.THRESHOLDS.index(0.5)] == row["Ratio"] == 50
    assert sweep.panels({"score": "styles", "classes": ["van gogh"]}, {"none": scores}) == []
    drawn = figures.thresholds([first, other])
    assert drawn.startswith("<svg") and "dogs too" in drawn and "uce" in drawn
