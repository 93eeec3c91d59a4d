"""Figures of the page: SVG text, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
INK = {"Ratio": "#3b6ea8", "ASR": "#c4562f", "Others": "#6b9b57"}


def rates(rows: Sequence[Row]) -> str:
    """Bars of every rate for each method, with their 95 % intervals."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "palimpsest"
    import matplotlib.pyplot as plt

    names = [f for f in rows[0] if f"{f} low" in rows[0] and f.split()[0] in INK]
    figure, axes = plt.subplots(figsize=(1.6 + 1.5 * len(rows), 2.8), layout="constrained")
    width = 0.8 / len(names)
    for n, name in enumerate(names):
        middle = [float(r[name]) for r in rows]
        below = [m - float(r[f"{name} low"]) for m, r in zip(middle, rows, strict=True)]
        above = [float(r[f"{name} high"]) - m for m, r in zip(middle, rows, strict=True)]
        places = [x + (n - (len(names) - 1) / 2) * width for x in range(len(rows))]
        axes.bar(places, middle, width * 0.9, color=INK[name.split()[0]], alpha=1 - 0.15 * n, label=name)
        axes.errorbar(
            places, middle, [[max(0, b) for b in below], [max(0, a) for a in above]], fmt="none", ecolor="#222", elinewidth=1, capsize=2
        )
    axes.set_xticks(range(len(rows)), [str(r["method"]) for r in rows])
    axes.set_ylim(0, 104)
    axes.set_ylabel("% of pictures")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
