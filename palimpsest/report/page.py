"""`results/report.html`: every table that exists, and the same prompts and seeds before and after erasure and under attack."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import ImageFilter

from palimpsest.data import ALONE, Images, Prompts, Scores, read
from palimpsest.files import write_text
from palimpsest.judge import detected
from palimpsest.locks import alone
from palimpsest.report import figures, reported, runs, sweep, units
from palimpsest.report.table import Cell
from palimpsest.workflow import params as settings
from palimpsest.workflow import paths

ELSEWHERE = ("budget", "pre-ASR", "conditional")  # columns of the table that the page says in another way, or leaves to it
TEMPLATE = Path(__file__).with_name("page.html")


def refresh(params: Mapping[str, Any]) -> None:
    """Write the page from all tables under results/; one process at a time, so that the last of several sees every table."""
    with alone(Path("work/report.lock")):
        found = {(file.parts[1], file.parts[2]): rows(file) for file in sorted(Path("results").glob("*/*/table.csv"))}
        concepts = sorted({concept for (concept, _), table in found.items() if table})
        sections = [section(concept, params, {m: table for (c, m), table in found.items() if c == concept}) for concept in concepts]
        template = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text())
        write_text(Path(paths.PAGE), template.render(sections=sections))


def rows(file: Path) -> list[dict[str, str]]:
    """A table's rows; none while a report beside this one is making it again, which then brings the page up to date itself."""
    try:
        with file.open() as lines:
            return list(csv.DictReader(lines))
    except FileNotFoundError:
        return []


def section(concept: str, params: Mapping[str, Any], tables: Mapping[str, list[dict[str, str]]]) -> dict[str, Any]:
    cells: dict[tuple, dict[str, Any]] = {}
    order = ["none", *params["methods"]]
    for method in sorted(tables, key=lambda m: order.index(m) if m in order else len(order)):
        for row in tables[method]:
            cells.setdefault((row["method"], row["base"], row["seed"]), row)
    single = [row for row in cells.values() if row["seed"].isdigit()]
    names = [n for n in single[0] if not n.endswith((" low", " high", " n")) and n.split()[0] not in ELSEWHERE]
    return {
        "concept": concept,
        "columns": names,
        "rows": [[shown(row, name) for name in names] for row in cells.values()],
        "figure": figures.rates([row for row in single if row["seed"] == single[0]["seed"]]),
        "budgets": {n.removeprefix("budget "): single[0][n] for n in single[0] if n.startswith("budget ") and single[0][n]},
        "thresholds": thresholds(concept, params, single),
        "published": reported.beside(concept, single),
        "runs": [found for attack in params["grid"]["attacks"] if (found := searches(concept, params, single, attack))],
        "galleries": [g for g in (gallery(concept, params, single, purpose) for purpose in ("concept", "other")) if g],
    }


def shown(row: Mapping[str, str], name: str) -> tuple[str, str]:
    """A cell: the value, and below it interval and n where there are; nothing where a table is older than the column."""
    value = row.get(name, "")
    if name in ("method", "base", "seed") or not value:
        return value, ""
    small = f"{float(row[name + ' low']):.0f}–{float(row[name + ' high']):.0f}, n {row[name + ' n']}" if row.get(f"{name} n") else ""
    digits = 1 if float(value) >= 10 else 2
    return (f"{float(value):.1f}" if small else f"{float(value):.{digits}f}"), small


def gallery(concept: str, params: Mapping[str, Any], rows: list[dict[str, str]], purpose: str) -> dict[str, Any] | None:
    """Lines of pictures: each method's answers to the same prompts, plain and under attack; nothing where the pictures are not here."""
    base, seed = rows[0]["base"], rows[0]["seed"]
    fields = settings.read_concept(concept)
    detector = settings.detector(params, concept, base)
    blurred = purpose == "concept" and hidden(fields, params["bases"][base])
    cells = [Cell(concept, row["method"], base, int(seed)) for row in rows if row["seed"] == seed]
    attacks = params["grid"]["attacks"] if purpose == "concept" else ["none"]
    lines, prompts = [], []
    for cell in cells:
        for attack in attacks:
            manifest, scored = Path(paths.images(*cell, attack)), Path(paths.scores(*cell, attack))
            if not scored.exists() or not manifest.exists() or not manifest.with_name("images").exists():
                continue
            images, scores = Images.load(manifest), Scores.load(scored)
            hits = detected(detector, scores.columns, scores.meaning)[1].tolist()
            picked = examples(images, hits, purpose == "concept")[: params["report"]["examples"]]
            if attack == "none":
                prompts = [images.rows[n].prompt.text for n in picked]
            title = cell.method if cell.method != "none" else "unedited"
            name = title if attack == "none" else f"{title}, under {attack}"
            pictures = [picture(images, n, hits[n], blurred) for n in picked]
            lines.append({"name": name, "first": attack == "none", "pictures": pictures})
    title = "The concept" if purpose == "concept" else "Everything else"
    return {"title": title, "prompts": prompts, "lines": lines, "blurred": blurred} if lines else None


def thresholds(concept: str, params: Mapping[str, Any], rows: list[dict[str, str]]) -> str:
    """The figure of report/sweep.py for the first base and seed; nothing where its detector has no threshold or the scores are not here."""
    base, seed = rows[0]["base"], rows[0]["seed"]
    detector = settings.detector(params, concept, base)
    files = {row["method"]: Path(paths.scores(concept, row["method"], base, int(seed), "none")) for row in rows if row["seed"] == seed}
    panels = sweep.panels(detector, {method: Scores.load(file) for method, file in files.items() if file.exists()})
    return figures.thresholds(panels) if panels and panels[0].lines else ""


def searches(concept: str, params: Mapping[str, Any], rows: list[dict[str, str]], attack: str) -> dict[str, Any] | None:
    """How an attack went where it succeeded and where it failed: curves and pictures of two runs each, over all methods, as in Dark
    Miner's Appendix H; nothing where it logs nothing or its files are not here.
    """
    base, seed = rows[0]["base"], rows[0]["seed"]
    fields = settings.read_concept(concept)
    detector, blurred = settings.detector(params, concept, base), hidden(fields, params["bases"][base])
    every: list[tuple[runs.Run, Path]] = []
    for cell in [Cell(concept, row["method"], base, int(seed)) for row in rows if row["seed"] == seed]:
        asked, scored, manifest = (Path(of(*cell, attack)) for of in (paths.attack, paths.scores, paths.images))
        if asked.exists() and scored.exists() and manifest.with_name("images").exists():
            looks = units.looks(Scores.load(scored), Scores.load(Path(paths.scores(*cell, "none"))), detector)
            every += [(run, manifest) for run in runs.runs(cell.method, Prompts.load(asked).log, looks)]
    picked = runs.chosen([run for run, _ in every])
    if not picked:
        return None
    at = [next(manifest for run, manifest in every if run is one) for one in picked]
    pictures = [picture(Images.load(manifest), run.picture, run.won, blurred) for run, manifest in zip(picked, at, strict=True)]
    return {"attack": attack, "figure": figures.curves(picked), "pictures": pictures, "blurred": blurred}


def hidden(concept: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether pictures of the concept are blurred."""
    return concept["sensitive"] and not base.get("shareable", False)


def examples(images: Images, hits: Sequence[bool], concept: bool) -> list[int]:
    """Which pictures to show: of each unit the first that shows the concept, or else its last; outside an attack every one."""
    chosen: dict[int, int] = {}
    for n, row in enumerate(images.rows):
        if (row.prompt.purpose == "concept") == concept:
            about = ALONE - n if row.prompt.unit == ALONE else row.prompt.unit
            if about not in chosen or not hits[chosen[about]]:
                chosen[about] = n
    return list(chosen.values())


def picture(images: Images, n: int, hit: bool, blurred: bool) -> dict[str, Any]:
    row = images.rows[n]
    thumbnail = read(images.folder / row.file)
    thumbnail.thumbnail((192, 192))
    if blurred:
        thumbnail = thumbnail.filter(ImageFilter.GaussianBlur(thumbnail.width / 8))
    out = io.BytesIO()
    thumbnail.save(out, format="PNG")
    return {"png": base64.b64encode(out.getvalue()).decode(), "hit": hit, "prompt": row.prompt.text, "seed": row.prompt.seed}
