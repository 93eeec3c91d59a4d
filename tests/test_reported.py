"""Published figures: every file says what its source printed, in this project's names, and stands beside the measured ones."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import mean, pstdev

import pytest
import yaml
from conftest import TOP
from scipy.stats import t

from palimpsest.report.reported import SOURCES, Figure, beside, figures, published, status
from palimpsest.workflow import signatures

FOLDER = TOP / "data/reported"
FILES = sorted(FOLDER.glob("*.csv"))
EVERY = [figure for file in FILES for figure in figures(file)]
PARAMS = yaml.safe_load((TOP / "params.yaml").read_text())
RATES = ("Ratio", "Score", "ASR ", "pre-ASR ")  # in percent, by how a column begins
RANGES = {"CLIP-Score": (15, 40), "CLIP cosine": (0.15, 0.4), "FID": (10, 300), "loops": (1, 60), "hours": (1, 60)}
RANGES |= {"slope": (-0.1, 0.1), "fitting error": (0, 600)}
SEEDS = ("pool_seed=2024", "pool_seed=2020", "pool_seed=2028")


def printed(table: str, concept: str, method: str, column: str, variant: str = "", base: str = "sd14") -> float:
    """A figure by the name of its file without .csv, and where it stands there."""
    source, of = table.split("-")
    key = Figure(source, of, concept, base, method, variant, column, math.nan)[:-1]
    return next(figure.value for figure in EVERY if figure[:-1] == key)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_holds_figures_of_its_own_table(file: Path) -> None:
    found = figures(file)
    assert found and {f"{figure.source}-{figure.table}" for figure in found} == {file.stem}
    assert len({figure[:-1] for figure in found}) == len(found)
    assert f"`{file.name}`" in (FOLDER / "README.md").read_text()
    for figure in found:
        low, high = (0, 100) if figure.column.startswith(RATES) or figure.variant == "pool_seed=std" else RANGES[figure.column]
        assert low <= figure.value <= high, figure


def test_every_table_is_whole() -> None:
    """Every method of a table has every column for every concept and variant that it has at all."""
    for file in FILES:
        found = figures(file)
        columns = {figure.column for figure in found}
        for key in {figure[:-2] for figure in found}:
            assert {figure.column for figure in found if figure[:-2] == key} == columns, (file.name, key)
    one = figures(FOLDER / "darkminer-table1.csv")
    assert [len({f[n] for f in one}) for n in (2, 4, 6)] == [6, 8, 8] and len(one) == 6 * 8 * 8


def test_names_are_this_projects() -> None:
    concepts = {file.stem for file in (TOP / "data/concepts").glob("*.yaml")}
    assert {figure.concept for figure in EVERY} - concepts <= {"tench", "garbage_truck"}
    assert {figure.method for figure in EVERY} - set(PARAMS["methods"]) <= {"mace", "race", "safree", "spm", "erase_diff", "scissor_hands"}
    assert {figure.base for figure in EVERY} == {"sd14", "sd15", "sd20"} and {figure.base for figure in EVERY} <= set(PARAMS["bases"])
    attacks = {figure.column.split("ASR ")[1] for figure in EVERY if "ASR " in figure.column}
    assert attacks == {"cce", "p4d", "unlearndiff", "ring_a_bell"} and attacks <= set(PARAMS["attacks"])
    for figure in EVERY:
        setting = figure.variant.split("=")[0]
        assert setting in ("", "pool_seed", "stage") or setting in signatures.settings("methods", figure.method), figure
    assert {figure.source for figure in EVERY} == set(SOURCES)


def test_a_source_prints_a_column_once_apart_from_ablations() -> None:
    keys = [(f.source, f.concept, f.base, f.method, f.column) for f in EVERY if not f.variant]
    assert len(set(keys)) == len(keys)


def test_dark_miner_says_of_its_table_1_what_the_table_says() -> None:
    """Sections 4.2 and appendix I: CA brings nudity down by 32 %, SLD church by 45.1 %, DM2 UnlearnDiff on nudity by 82 %."""
    one = [figure for figure in EVERY if figure.source == "darkminer" and figure.table == "table1"]
    unedited = [figure for figure in one if figure.method == "none"]
    assert {f.value for f in unedited if f.column in ("ASR cce", "ASR p4d", "ASR unlearndiff")} == {100}
    assert {f.value for f in unedited if f.column == "CLIP-Score"} == {31.5} and {f.value for f in unedited if f.column == "FID"} == {21.1}
    of = "darkminer-table1"
    assert printed(of, "nudity", "none", "Ratio") - printed(of, "nudity", "ca", "Ratio") == pytest.approx(32)
    assert printed(of, "nudity", "ca", "ASR cce") == 100
    assert printed(of, "church", "none", "Ratio") - printed(of, "church", "sld", "Ratio") == pytest.approx(45.1)
    assert printed(of, "church", "sld", "ASR p4d") == 89
    assert {printed(of, "nudity", method, "ASR unlearndiff") for method in ("sld", "esd", "uce")} == {100}
    assert printed(of, "nudity", "esd", "ASR unlearndiff") - printed(of, "nudity", "dm2", "ASR unlearndiff") == 82
    for concept in {figure.concept for figure in one}:
        ratios = {f.method: f.value for f in one if f.concept == concept and f.column == "Ratio"}
        assert min(ratios, key=ratios.__getitem__) == "dm2"


def test_table_s2_is_of_its_three_seeds() -> None:
    """Mean and population deviation to the printed digit; the interval is Student's t of that deviation."""
    for column in ("Ratio", "CLIP-Score", "ASR ring_a_bell", "ASR cce"):
        said = {f.variant: f.value for f in EVERY if f.table == "tableS2" and f.column == column}
        seeds = [said[variant] for variant in SEEDS]
        assert said["pool_seed=mean"] == round(mean(seeds), 2) and said["pool_seed=std"] == round(pstdev(seeds), 2)
        half = t.ppf(0.975, 2) * said["pool_seed=std"] / math.sqrt(3)
        for end, sign in (("low", -1), ("high", 1)):
            assert said[f"pool_seed=95% {end}"] == pytest.approx(said["pool_seed=mean"] + sign * half, abs=0.03)


def test_the_settings_used_are_the_same_run_in_every_table() -> None:
    used = {"S2": "pool_seed=2024", "S3": "tau=0.2", "S4": "length=32", "S5": "anchor=a photo", "S6": "location=value"}
    defaults = signatures.defaults("methods", "dm2")
    for table, variant in used.items():
        setting, value = variant.split("=")
        assert setting == "pool_seed" or str(defaults[setting]) == value
        same = [f for f in EVERY if (f.table, f.variant) == (f"table{table}", variant) and f.column not in ("loops", "hours")]
        assert len(same) in (2, 3, 4)
        for figure in same:
            assert round(figure.value, 1) == printed("darkminer-table1", "nudity", "dm2", figure.column), figure
    hours = {f.variant: f.value for f in EVERY if f.column == "hours"}
    assert all(hours[f.variant] / f.value == pytest.approx(1.236, abs=0.005) for f in EVERY if f.column == "loops") and len(hours) == 3


def test_table_s1_has_one_unedited_model() -> None:
    unedited = [figure for figure in EVERY if figure.table == "tableS1" and figure.method == "none"]
    assert {(f.column, f.value) for f in unedited if f.column in ("CLIP-Score", "FID")} == {("CLIP-Score", 31.49), ("FID", 21.14)}
    assert len(unedited) == 20 and printed("darkminer-tableS1", "shocking", "none", "Score") == 50.23
    assert printed("darkminer-table2", "nudity", "dm2", "Ratio", base="sd20") == 8.2
    assert printed("darkminer-tableS7", "violence", "dm2", "slope", "signal=delta") == -0.002


def test_stereo_counts_95_prompts_of_nudity_and_500_pictures_of_a_style() -> None:
    """Cut or rounded to two digits, but for UnlearnDiff, which has prompts of its own, and two cells that the README names."""
    stereo = [f for f in EVERY if f.source == "stereo" and f.column.startswith(RATES) and f.column != "ASR unlearndiff"]
    odd = [f for f in stereo if f.concept == "nudity" and min(abs(f.value - 100 * k / 95) for k in range(96)) > 0.01]
    odd += [f for f in stereo if f.concept != "nudity" and (5 * f.value) % 1 > 1e-6]
    assert [(f.table, f.column, f.value) for f in odd] == [("table6", "ASR ring_a_bell", 2.46), ("table4", "ASR cce", 9.78)]


def test_stereo_costs_what_its_authors_say() -> None:
    """The announcement of the paper: 1.99 of FID and 0.81 of CLIP-Score, the means of tables 2 to 4."""
    places = [("stereo-table2", "nudity"), ("stereo-table3", "van_gogh"), ("stereo-table4", "tench")]
    for column, said in (("FID", 1.99), ("CLIP-Score", 0.81)):
        costs = [abs(printed(table, concept, "stereo", column) - printed(table, concept, "none", column)) for table, concept in places]
        assert mean(costs) == pytest.approx(said, abs=0.01)
    for column in ("Ratio", "ASR ring_a_bell", "ASR cce", "CLIP-Score"):
        for table, variant in (("stereo-table5", "stage=full"), ("stereo-table6", "rounds=2")):
            assert printed(table, "nudity", "stereo", column, variant) == printed("stereo-table2", "nudity", "stereo", column)


def test_the_board_counts_142_prompts_of_nudity_and_50_of_the_rest() -> None:
    """So do the first entries; the ASR of those added later count 118 and 41 (data/reported/README.md)."""
    board = [f for f in EVERY if f.source == "unlearndiffatk"]
    later = ("mace", "rece", "safree")
    for figure in [f for f in board if f.column == "ASR unlearndiff" or (f.column.startswith("pre-ASR") and f.method not in later)]:
        prompts = (118 if figure.concept == "nudity" else 41) if figure.method in later else 142 if figure.concept == "nudity" else 50
        if (figure.concept, figure.method) != ("van_gogh", "ca"):  # 77 of 50 prompts would be 38.5
            assert min(abs(figure.value - 100 * k / prompts) for k in range(prompts + 1)) < 0.01, figure
    for figure in [f for f in board if f.column == "ASR unlearndiff"]:
        assert figure.value >= printed("unlearndiffatk-board", figure.concept, figure.method, "pre-ASR unlearndiff")


def test_published_takes_the_first_source_that_has_a_column() -> None:
    esd = published("nudity", "sd14", "esd", folder=FOLDER)
    assert esd["Ratio"] == (45.3, "darkminer") and esd["ASR unlearndiff"] == (100, "darkminer") and esd["FID"] == (24.7, "darkminer")
    assert esd["pre-ASR unlearndiff"] == (20.42, "unlearndiffatk") and esd["CLIP cosine"] == (0.302, "unlearndiffatk")
    stereo = published("nudity", "sd14", "esd", sources=["stereo", "unlearndiffatk"], folder=FOLDER)
    assert stereo["ASR unlearndiff"] == (43.15, "stereo") and stereo["pre-ASR unlearndiff"] == (20.42, "unlearndiffatk")
    assert published("nudity", "sd14", "stereo", folder=FOLDER)["FID"] == (15.7, "stereo")
    assert published("nudity", "sd15", "dm2", folder=FOLDER)["ASR cce"] == (28.7, "darkminer")
    assert published("nudity", "mini", "esd", folder=FOLDER) == published("parachute", "sd14", "dm2", folder=FOLDER) == {}
    assert next(iter(esd)) == "Ratio" and "hours" not in published("nudity", "sd14", "dm2", folder=FOLDER)
    with pytest.raises(FileNotFoundError, match="top of the repository"):
        published("nudity", "sd14", "esd", folder=FOLDER / "nowhere")


def test_a_file_that_is_no_table_of_figures_is_refused(tmp_path: Path) -> None:
    head, first, *_ = (FOLDER / "darkminer-table2.csv").read_text().splitlines()
    file = tmp_path / "x-table1.csv"
    whole = f"{head}\n{first}\n"
    for text, said in [("", "header"), (f"{head}s\n", "header"), (f"{head}\n{first}x\n", "line 2"), (f"{whole}{first},1\n", "line 3")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            figures(file)
    assert next(csv.reader([head])) == list(Figure._fields)


def test_status_says_where_the_measured_figure_lies() -> None:
    assert status(49.1, 50.0, 45.0, 55.0) == "within the interval" == status(45.0, 50.0, 45.0, 55.0)
    assert status(49.1, 60.0, 55.0, 65.0) == "above by 10.9" and status(49.1, 20.0, 15.0, 25.0) == "below by 29.1"
    assert status(21.1, 21.14, None, None) == "above by 0.04" and status(0.302, 0.3, math.nan, math.nan) == "below by 0.002"
    assert status(100, 100.0, None, None) == "within the interval"
    assert status(49.1, math.nan, None, None) == status(49.1, None, None, None) == "not measured"


def test_a_table_is_shown_beside_what_was_published() -> None:
    """Columns that were not measured are named too; a base of which nothing was printed has none."""
    row = {"method": "dm2", "base": "sd14", "seed": "0", "Ratio": "12.0", "Ratio low": "11.0", "Ratio high": "13.0", "FID": "25.0"}
    found = {one.column: one for one in beside("nudity", [row, {**row, "base": "mini"}], TOP / "data/reported")}
    assert all(one.base == "sd14" and one.source == "darkminer" for one in found.values())
    assert (found["Ratio"].measured, found["Ratio"].status) == (12.0, "within the interval")
    assert found["FID"].status == f"above by {25.0 - found['FID'].published:.3g}"
    assert found["ASR cce"].measured is None and found["ASR cce"].status == "not measured"
