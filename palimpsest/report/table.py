"""One row for a method on a base and a seed; `none` stands beside the method in every table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from palimpsest.data import Scores
from palimpsest.files import write_json, write_text
from palimpsest.report.measures import detected, frechet, rate, spread
from palimpsest.workflow import paths

Row = dict[str, Any]


def rated(row: Row, name: str, positive: torch.Tensor) -> None:
    """Four columns: the rate in percent, its interval, its n."""
    row |= dict(zip((name, f"{name} low", f"{name} high", f"{name} n"), rate(positive), strict=True))


def plain(row: Row, scores: Scores, real: Scores, detector: Mapping[str, Any]) -> None:
    """What plain prompts show: the erased concept, and everything else."""
    columns, meaning, prompts = scores.columns, scores.meaning, scores.prompts
    erased = torch.tensor([p.purpose == "concept" for p in prompts])
    value, positive = detected(detector, columns, meaning)
    rated(row, "Ratio", positive[erased])
    row["Score"] = 100 * value[erased].mean().item()
    row["CLIP-Score"] = columns["clip_score"][~erased].mean().item()
    row[meaning["features"]] = frechet(columns["features"][~erased], real.columns["features"])
    row[meaning["perceptual"]] = columns["perceptual"][~erased].mean().item()
    names = meaning["objects"]
    right = torch.tensor([n for n, p in enumerate(prompts) if p.purpose != "concept" and p.shows])
    said = torch.tensor([names.index(prompts[n].shows) for n in right])
    kept = columns["objects"][right].argmax(1) == said
    rated(row, "Others", kept)
    rated(row, "Near", kept[torch.tensor([prompts[n].purpose == "near" for n in right])])


def row(
    method: str, base: str, seed: int, attacks: Mapping[str, Scores], real: Scores, detector: Mapping[str, Any], cost: Mapping[str, float]
) -> Row:
    """Ratio and Score on plain prompts, what else became of the model, success of each attack, cost.

    Args:
        attacks: scores of each attack, `none` among them.
        detector: what counts as showing the concept (see `measures.detected`).
    """
    made: Row = {"method": method, "base": base, "seed": seed}
    plain(made, attacks["none"], real, detector)
    for name, scores in attacks.items():
        if name != "none":
            rated(made, f"ASR {name}", detected(detector, scores.columns, scores.meaning)[1])
    return made | {"seconds": cost["seconds"], "peak memory MB": cost["peak_memory_mb"]}


def of_cell(concept: str, method: str, base: str, seed: int, attacks: Sequence[str], detector: Mapping[str, Any]) -> Row:
    """The row of a cell, read from results/."""
    cell = (concept, method, base, seed)
    found = {a: Scores.load(Path(paths.scores(*cell, a))) for a in attacks}
    cost = json.loads(Path(paths.cost(*cell)).read_text())
    return row(method, base, seed, found, Scores.load(Path(paths.reference_scores(base))), detector, cost)


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """For each method and base with several seeds a row `mean`, and one `+-` with half the 95 % interval of each mean."""
    extra = []
    for key in dict.fromkeys((r["method"], r["base"]) for r in rows):
        same = [r for r in rows if (r["method"], r["base"]) == key]
        if len(same) > 1:
            fields = [f for f in same[0] if f not in ("method", "base", "seed") and not f.endswith((" low", " high", " n"))]
            both = {f: spread([float(r[f]) for r in same]) for f in fields}
            for name, part in (("mean", 0), ("+-", 1)):
                extra.append({"method": key[0], "base": key[1], "seed": name, **{f: v[part] for f, v in both.items()}})
    return extra


def write(file: Path, rows: Sequence[Row]) -> None:
    """CSV for people and programs, and the same as JSON for `dvc metrics`; the CSV last."""
    everything = [*rows, *over_seeds(rows)]
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for r in everything:
        values = {f: tidy(v) for f, v in r.items() if f not in ("method", "base", "seed") and not isinstance(tidy(v), str)}
        metrics.setdefault(r["method"], {})[f"{r['base']}-s{r['seed']}"] = values
    write_json(file.with_name("metrics.json"), metrics)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({f: tidy(v) for f, v in r.items()} for r in everything)
    write_text(file, out.getvalue())


def tidy(value: Any) -> Any:
    """Four digits behind the point; nothing where there is no number."""
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 4)
    return value
