"""The paper's Table 1 on the embedded model: every method beside every concept."""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.report.table import Row

LOWER, HIGHER = ("Ratio", "Score", "FID-mini"), ("CLIP-Score", "Others")  # which way is better; a success of an attack is better low


def page(concept: str, rows: Sequence[Row]) -> str:
    """A section of docs/table1-mini.md: the best value of a column bold, the second in italics, the unedited model apart.

    Args:
        rows: of every method, one seed each, `none` among them.
    """
    attacks = [name for name in rows[0] if name.startswith("ASR ") and not name.endswith((" low", " high", " n"))]
    columns = [*LOWER[:2], *HIGHER, LOWER[2], *attacks, "seconds"]
    marks: dict[tuple[str, str], str] = {}
    for column in columns[:-1]:
        edited = sorted({round(float(row[column]), 1) for row in rows if row["method"] != "none"}, reverse=column in HIGHER)
        for row in rows:
            value = round(float(row[column]), 1)
            if row["method"] != "none" and value in edited[:2]:
                marks[row["method"], column] = "**" if value == edited[0] else "*"
    lines = [f"## {concept.replace('_', ' ')}", "", f"| method | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row in rows:
        cells = [f"{mark}{float(row[c]):.1f}{mark}" for c in columns for mark in (marks.get((row["method"], c), ""),)]
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
