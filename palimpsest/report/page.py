"""`results/report.html`: every table that exists, and the same prompts and seeds before and after erasure and under attack."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from PIL import Image, ImageFilter

from palimpsest.data import ALONE, Images, Prompts, Scores, read
from palimpsest.files import write_text
from palimpsest.locks import alone
from palimpsest.report import figures, loops, reported, runs, sweep, units
from palimpsest.report.table import Cell
from palimpsest.workflow import entries, paths, sheets

ELSEWHERE = ("budget", "pre-ASR", "conditional", "skipped")  # columns of the table that the page says in another way, or leaves to it
TEMPLATE = Path(__file__).with_name("page.html")


class Seen(NamedTuple):
    """What a concept's detector saw in the pictures of the first base and seed."""

    detector: Mapping[str, Any]
    hidden: bool  # whether pictures of the concept are blurred
    plain: Mapping[str, Scores]  # of each method's plain pictures
    looks: Mapping[tuple[Cell, str], Sequence[units.Look]]  # of each cell and attack whose pictures are here


def refresh(params: Mapping[str, Any]) -> None:
    """Write the page from all tables under results/; one process at a time, so that the last of several sees every table.

    Tables of concepts, and rows of bases, that the project no longer has are left out.
    """
    with alone(Path("work/report.lock")):
        files = [file for file in sorted(Path("results").glob("*/*/table.csv")) if file.parts[1] in sheets.concepts()]
        found = {(file.parts[1], file.parts[2]): [row for row in rows(file) if row["base"] in params["bases"]] for file in files}
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
    """What the page says of a concept; where no row has a Ratio, the table and what is said of it."""
    cells: dict[tuple, dict[str, Any]] = {}
    order = ["none", *params["methods"]]
    for method in sorted(tables, key=lambda m: order.index(m) if m in order else len(order)):
        for row in tables[method]:
            cells.setdefault((row["method"], row["base"], row["seed"]), row)
    single = [row for row in cells.values() if row["seed"].isdigit()]
    defined = [row for row in single if row.get("Ratio")]  # not what is skipped
    names = [n for n in next(iter(cells.values())) if not n.endswith((" low", " high", " n")) and n.split()[0] not in ELSEWHERE]
    budgets = {n.removeprefix("budget "): said for n, said in next(iter(single), {}).items() if n.startswith("budget ") and said}
    made = {
        "concept": concept,
        "columns": names,
        "rows": [[shown(row, name) for name in names] for row in cells.values()],
        "skipped": list(dict.fromkeys(why for row in single for why in row.get("skipped", "").split("; ") if why)),
        "budgets": budgets,
        "published": reported.beside(concept, single),
    }
    if not defined:
        return made
    seen = looked(concept, params, defined)
    return made | {
        "budgets": {attack: ". ".join([said, *losses(seen, attack)]) for attack, said in budgets.items()},
        "figure": figures.rates([row for row in defined if row["seed"] == defined[0]["seed"]]),
        "thresholds": thresholds(seen),
        "loops": [found for cell, attack in seen.looks if attack == "none" and (found := mined(seen, cell))],
        "runs": [found for attack in params["grid"]["attacks"] if (found := searches(seen, attack))],
        "galleries": [g for g in (gallery(seen, params, purpose) for purpose in ("concept", "other")) if g],
    }


def shown(row: Mapping[str, str], name: str) -> tuple[str, str]:
    """A cell: the value, and below it interval and n where there are; nothing where a table is older than the column."""
    value = row.get(name, "")
    if name in ("method", "base", "seed") or not value:
        return value, ""
    small = f"{float(row[name + ' low']):.0f}–{float(row[name + ' high']):.0f}, n {row[name + ' n']}" if row.get(f"{name} n") else ""
    digits = 1 if float(value) >= 10 else 2
    return (f"{float(value):.1f}" if small else f"{float(value):.{digits}f}"), small


def looked(concept: str, params: Mapping[str, Any], rows: list[dict[str, str]]) -> Seen:
    """Read once, for all that the page shows of it; nothing of a method whose plain scores are not here."""
    base, seed = rows[0]["base"], rows[0]["seed"]
    detector, blurred = entries.detector(params, concept, base), hidden(sheets.concept(concept), params["bases"][base])
    plain: dict[str, Scores] = {}
    looks: dict[tuple[Cell, str], Sequence[units.Look]] = {}
    for cell in [Cell(concept, row["method"], base, int(seed)) for row in rows if (row["base"], row["seed"]) == (base, seed)]:
        file = Path(paths.scores(*cell, "none"))
        if not file.exists():
            continue
        plain[cell.method] = Scores.load(file)
        for attack in dict.fromkeys([*params["grid"]["attacks"], "none"]):
            manifest, scored = Path(paths.images(*cell, attack)), Path(paths.scores(*cell, attack))
            if scored.exists() and manifest.exists() and manifest.with_name("images").exists():
                scores = plain[cell.method] if scored == file else Scores.load(scored)
                if not scores.skipped:
                    looks[cell, attack] = units.looks(scores, plain[cell.method], detector)
    return Seen(detector, blurred, plain, looks)


def gallery(seen: Seen, params: Mapping[str, Any], purpose: str) -> dict[str, Any] | None:
    """Lines of pictures: each method's answers to the same prompts, plain and under attack; nothing where the pictures are not here."""
    blurred = purpose == "concept" and seen.hidden
    attacks = params["grid"]["attacks"] if purpose == "concept" else ["none"]
    lines, prompts = [], []
    for (cell, attack), looks in seen.looks.items():
        if attack not in attacks:
            continue
        images, hits = Images.load(Path(paths.images(*cell, attack))), [look.positive for look in looks]
        picked = examples(images, hits, purpose == "concept")[: params["report"]["examples"]]
        if attack == "none":
            prompts = [images.rows[n].prompt.text for n in picked]
        title = cell.method if cell.method != "none" else "unedited"
        name = title if attack == "none" else f"{title}, under {attack}"
        lines.append({"name": name, "first": attack == "none", "pictures": [picture(images, n, hits[n], blurred) for n in picked]})
    title = "The concept" if purpose == "concept" else "Everything else"
    return {"title": title, "prompts": prompts, "lines": lines, "blurred": blurred} if lines else None


def thresholds(seen: Seen) -> str:
    """The figure of report/sweep.py for the first base and seed; nothing where its detector has no threshold or the scores are not here."""
    panels = sweep.panels(seen.detector, seen.plain)
    return figures.thresholds(panels) if panels and panels[0].lines else ""


def losses(seen: Seen, attack: str) -> list[str]:
    """What an attack found and lost again, where its files are here (report/units.py)."""
    files = {cell.method: Path(paths.attack(*cell, attack)) for cell, name in seen.looks if name == attack}
    return units.losses({method: json.loads(file.read_text()) for method, file in files.items() if file.exists()})


def searches(seen: Seen, attack: str) -> dict[str, Any] | None:
    """How an attack went where it succeeded and where it failed: curves and pictures of two runs each, over all erased models, as in
    Dark Miner's Appendix H; nothing where it logs nothing or its files are not here.
    """
    every: list[tuple[runs.Run, Path]] = []
    for (cell, name), looks in seen.looks.items():
        asked, manifest = Path(paths.attack(*cell, attack)), Path(paths.images(*cell, attack))
        if name == attack and cell.method != "none" and asked.exists():
            every += [(run, manifest) for run in runs.runs(cell.method, Prompts.load(asked).log, looks)]
    picked = runs.chosen([run for run, _ in every])
    if not picked:
        return None
    at = [next(manifest for run, manifest in every if run is one) for one in picked]
    panels = [
        {"figure": figures.curve(run), "picture": picture(Images.load(manifest), run.picture, run.won, seen.hidden)}
        for run, manifest in zip(picked, at, strict=True)
    ]
    return {"attack": attack, "panels": panels}


def mined(seen: Seen, cell: Cell) -> dict[str, Any] | None:
    """How an erasure by mining went: s(c) and pictures loop by loop; nothing of one that has no loops, or whose files are not here."""
    of = loops.loops(cell.method, Path(paths.erasure(*cell)), Path(paths.cost(*cell)))
    if not of:
        return None
    pairs = [{"loop": n, "seconds": of.seconds.get(n), "pictures": [png(one, seen.hidden) for one in pair]} for n, pair in of.pairs.items()]
    return {"method": of.method, "figure": figures.mined(of), "pairs": pairs, "blurred": seen.hidden}


def hidden(concept: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether pictures of the concept are blurred."""
    return concept["sensitive"] and not base.get("shareable", False)


def examples(images: Images, hits: Sequence[bool], concept: bool) -> list[int]:
    """Which pictures to show: of each unit the first that shows the concept, or else its last; outside an attack every one."""
    chosen: dict[int, int] = {}
    for n, row in enumerate(images.rows):
        if (row.prompt.purpose == "concept") == concept and row.sha256:  # of those that lie here
            about = ALONE - n if row.prompt.unit == ALONE else row.prompt.unit
            if about not in chosen or not hits[chosen[about]]:
                chosen[about] = n
    return list(chosen.values())


def picture(images: Images, n: int, hit: bool, blurred: bool) -> dict[str, Any]:
    row = images.rows[n]
    return {"png": png(read(images.folder / row.file), blurred), "hit": hit, "prompt": row.prompt.text, "seed": row.prompt.seed}


def png(thumbnail: Image.Image, blurred: bool) -> str:
    """A small picture, for the page's text."""
    thumbnail.thumbnail((192, 192))
    if blurred:
        thumbnail = thumbnail.filter(ImageFilter.GaussianBlur(thumbnail.width / 8))
    out = io.BytesIO()
    thumbnail.save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()
