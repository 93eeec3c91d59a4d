"""Figures of the page: SVG text, drawn with matplotlib. The only file that needs it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from palimpsest.report.loops import Loops
from palimpsest.report.runs import Run
from palimpsest.report.sweep import THRESHOLDS, Panel

Row = dict[str, Any]
ENDED = {True: "#c4562f", False: "#3b6ea8"}  # how a run of an attack did: succeeded, failed
INK = {"Ratio": "#3b6ea8", "ASR": "#c4562f", "Others": "#6b9b57"}


def rates(rows: Sequence[Row]) -> str:
    """Bars of every rate for each method, with their 95 % intervals."""
    plt = plotting()
    # not those that an older table lacks, nor those that nothing was counted for
    names = [f for f in rows[0] if f.split()[0] in INK and all(row.get(f"{f} low") for row in rows)]
    figure, axes = plt.subplots(figsize=(1.6 + max(1.5, 0.25 * len(names)) * len(rows), 2.8), layout="constrained")
    width, inks = 0.8 / len(names), [name.split()[0] for name in names]
    for n, (name, ink) in enumerate(zip(names, inks, strict=True)):
        middle = [float(r[name]) for r in rows]
        below = [m - float(r[f"{name} low"]) for m, r in zip(middle, rows, strict=True)]
        above = [float(r[f"{name} high"]) - m for m, r in zip(middle, rows, strict=True)]
        places = [x + (n - (len(names) - 1) / 2) * width for x in range(len(rows))]
        axes.bar(places, middle, width * 0.9, color=INK[ink], alpha=1 - 0.8 * inks[:n].count(ink) / inks.count(ink), label=name)
        axes.errorbar(
            places, middle, [[max(0, b) for b in below], [max(0, a) for a in above]], fmt="none", ecolor="#222", elinewidth=1, capsize=2
        )
    axes.set_xticks(range(len(rows)), [str(r["method"]) for r in rows])
    axes.set_ylim(0, 104)
    axes.set_ylabel("% of pictures")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return svg(figure)


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Means over the last `width` values, over fewer at the beginning."""
    return [sum(part) / len(part) for n in range(len(values)) for part in [values[max(0, n + 1 - width) : n + 1]]]


def curve(run: Run) -> str:
    """A run of an attack: the values faint, and their running mean over a twentieth of the run."""
    figure, axes = plotting().subplots(figsize=(2.8, 2.2), layout="constrained")
    axes.plot(run.steps, run.values, color=ENDED[run.won], alpha=0.3, linewidth=0.8, marker="." if len(run.steps) < 20 else "")
    axes.plot(run.steps, smoothed(run.values, max(1, len(run.values) // 20)), color=ENDED[run.won], linewidth=1.4)
    axes.set_title(f"{run.title}: {'succeeded' if run.won else 'failed'}", fontsize=8)
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel(run.of, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def mined(of: Loops) -> str:
    """s(c) of each loop, before and after circumventing."""
    figure, axes = plotting().subplots(figsize=(3.6, 2.2), layout="constrained")
    for values, won, name in ((of.before, True, "before"), (of.after, False, "after")):
        axes.plot(range(len(values)), values, color=ENDED[won], linewidth=1.2, marker=".", label=name)
    axes.set_title(f"{of.method}: what is mined", fontsize=8)
    axes.set_xlabel("loop", fontsize=8)
    axes.set_ylabel("s(c)", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return svg(figure)


def thresholds(panels: Sequence[Panel]) -> str:
    """Ratio against the detector's threshold: a panel for each reading, a line for each method, the threshold of the table dotted."""
    figure, grid = plotting().subplots(
        1, len(panels), figsize=(1.4 + 2.6 * len(panels), 2.4), layout="constrained", squeeze=False, sharey=True
    )
    for axes, panel in zip(grid[0], panels, strict=True):
        for line in panel.lines:
            axes.plot(THRESHOLDS, line.ratios, linewidth=1.3, label=line.method)
        if panel.used is not None:
            axes.axvline(panel.used, color="#222", linewidth=0.8, linestyle=":")
        axes.set_title(panel.reading, fontsize=8)
        axes.set_xlabel("threshold", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_ylim(0, 104)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("Ratio, %", fontsize=8)
    grid[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return svg(figure)


def plotting() -> Any:
    """matplotlib's pyplot, set up so that the same figure is the same text."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "palimpsest"
    import matplotlib.pyplot as plt

    return plt


def svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    plotting().close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
