"""Make the table of a method for a concept, beside the row of `none`, and bring the page up to date."""

from pathlib import Path

from palimpsest.report import page, table
from palimpsest.workflow import params, paths, stage


def main(job: stage.Stage) -> None:
    grid, detectors = job.params["grid"], params.read_concept(job.concept)["detectors"]
    rows = [
        table.of_cell(job.concept, method, base, seed, grid["attacks"], detectors[job.params["bases"][base]["detectors"]])
        for base in grid["bases"]
        for seed in grid["seeds"]
        for method in dict.fromkeys(("none", job.method))
    ]
    table.write(Path(paths.table(job.concept, job.method)), rows)
    page.refresh(job.params)


if __name__ == "__main__":
    stage.run(__doc__, "concept method", main)
