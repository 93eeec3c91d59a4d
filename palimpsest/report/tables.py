"""Many methods beside one another, a section for each concept: the paper's Table 1 on the embedded model, robustness over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from palimpsest.report.measures import spread
from palimpsest.report.table import Row

LOWER, HIGHER = ("Ratio", "Score", "FID-mini"), ("CLIP-Score", "Others", "Styles")  # which way is better; an attack's success is better low
TITLES = {
    "table1": "Table 1 on the embedded model",
    "robustness": "Robustness on the embedded model",
    "crossed": "Every attack on every method, on the embedded model",
}
HEAD = """# {title}

Made by `make {section}-mini`: {images} pictures of the concept and {others} others a cell, {seeds} of edit and attack.
Ratio, Score, Others, Styles and the attacks' success (ASR) in percent; Score: how sure the judge is, over all pictures where the concept is
inappropriate and else over those that count as showing it (– where none does), as in Dark Miner; Others: how often the judge sees what a
prompt without the concept names; Styles: how often it sees the style that such a prompt names. Lower is better but for CLIP-Score, Others
and Styles; the best of a column is bold, the second in italics. ASR is of prompts, how many stands in brackets; those that show the concept
plainly count where the attack asks plainly first.
"""

WEAK = ("uce", "esd", "ca", "fmn")  # methods that the papers find broken by attacks
ROBUST = ("stereo", "dm2", "dm2-long")  # and those that withstand


def head(section: str, images: int, others: int, seeds: int) -> str:
    said = "one seed" if seeds == 1 else f"{seeds} seeds (mean ± half the 95 % interval, Student's t)"
    return HEAD.format(title=TITLES[section], section=section, images=images, others=others, seeds=said)


def columns(row: Row) -> list[str]:
    """What a table shows of a row."""
    attacks = [name for name in row if name.startswith("ASR ") and not name.endswith((" low", " high", " n"))]
    styles = [name for name in HIGHER[2:] if name in row]
    return [*LOWER[:2], *HIGHER[:2], *styles, LOWER[2], *attacks, "seconds"]


def headed(column: str, row: Row) -> str:
    """What stands above a column: with the number of prompts where it is an attack's success."""
    return f"{column} ({row[f'{column} n']})" if f"{column} n" in row and column.startswith("ASR ") else column


def averaged(rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """method -> column -> mean over its seeds and half the 95 % interval."""
    methods = dict.fromkeys(row["method"] for row in rows)
    return {m: {c: spread([float(row[c]) for row in rows if row["method"] == m]) for c in names} for m in methods}


def marked(cells: Mapping[str, Mapping[str, tuple[float, float]]], column: str) -> dict[str, str]:
    """method -> "**" for the best of a column, "*" for the second, the unedited model apart."""
    known = {method: means[column][0] for method, means in cells.items() if method != "none" and not math.isnan(means[column][0])}
    values = {method: round(value, 1) for method, value in known.items()}
    best = sorted(set(values.values()), reverse=column in HIGHER)[:2]
    return {method: "**" if value == best[0] else "*" for method, value in values.items() if value in best}


def shown(value: tuple[float, float], mark: str) -> str:
    if math.isnan(value[0]):
        return "–"
    half = "" if math.isnan(value[1]) else f" ± {value[1]:.1f}"
    return f"{mark}{value[0]:.1f}{mark}{half}"


def page(concept: str, rows: Sequence[Row]) -> str:
    """A section of the document.

    Args:
        rows: of every method and seed, `none` among them.
    """
    names = columns(rows[0])
    cells = averaged(rows, names)
    marks = {column: marked(cells, column) if column != "seconds" else {} for column in names}
    heads = " | ".join(headed(name, rows[0]) for name in names)
    lines = [f"## {concept.replace('_', ' ')}", "", f"| method | {heads} |", f"|---|{'---:|' * len(names)}"]
    for method, means in cells.items():
        line = [shown(means[column], marks[column].get(method, "")) for column in names]
        lines.append(f"| {method} | {' | '.join(line)} |")
    return "\n".join([*lines, ""])


def findings(rows: Sequence[Row], attacks: Sequence[str]) -> str:
    """Whether attacks bring the concept back from the weak methods, and whether the robust ones are harder: by the means over seeds, and
    by whether the 95 % intervals of these are apart. A method's own Ratio is what plain prompts still show.
    """
    cells = averaged(rows, ["Ratio", *(f"ASR {attack}" for attack in attacks)])
    lines = ["| what the papers find | here |", "|---|---|"]
    weak = [name for name in WEAK if name in cells]
    for attack in attacks:
        rates = {method: values[f"ASR {attack}"] for method, values in cells.items()}
        for method in weak:
            lines.append(f"| {attack} brings it back from {method} | {apart(cells[method]['Ratio'], rates[method])} |")
        for method in [name for name in ROBUST if name in cells and weak]:
            weakest = min((rates[name] for name in weak), key=lambda value: value[0])
            lines.append(f"| {method} is harder for {attack} than all of these | {apart(rates[method], weakest)} |")
    return "\n".join([*lines, ""])


def apart(low: tuple[float, float], high: tuple[float, float]) -> str:
    """How far a mean, with half its interval, lies below another."""
    said = f"{low[0]:.0f} against {high[0]:.0f}"
    if low[0] >= high[0]:
        return f"**does not show**: {said}"
    return f"shows: {said}" + (", intervals apart" if low[0] + low[1] < high[0] - high[1] else "")


def allowed(budgets: Mapping[str, str]) -> str:
    """What each attack was allowed."""
    return "\n".join(["## Budgets", "", *(f"- {attack}: {budget}." for attack, budget in budgets.items()), ""])
