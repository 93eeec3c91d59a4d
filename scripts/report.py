"""Make the table of a method for a concept, beside the row of `none`, and bring the page up to date."""

import json
from pathlib import Path

from palimpsest.data import Images, Scores
from palimpsest.report import page, table
from palimpsest.workflow import params, paths, stage


def main(job: stage.Stage) -> None:
    grid, concept = job.params["grid"], job.concept
    rows = []
    for base in grid["bases"]:
        detector = params.read_concept(concept)["detectors"][job.params["bases"][base]["detectors"]]
        real = Scores.load(Path(paths.reference_scores(base)))
        for seed in grid["seeds"]:
            for method in dict.fromkeys(("none", job.method)):
                cell = (concept, method, base, seed)
                attacks = {
                    a: (Scores.load(Path(paths.scores(*cell, a))), Images.load(Path(paths.images(*cell, a)))) for a in grid["attacks"]
                }
                cost = json.loads(Path(paths.beside(paths.erasure(*cell), ".cost.json")).read_text())
                rows.append(table.row(method, base, seed, attacks, real, detector, cost))
    table.write(Path(paths.table(concept, job.method)), rows)
    page.refresh(job.params)


if __name__ == "__main__":
    stage.run(__doc__, "concept method", main)
