"""Make the table of a method for a concept, beside the row of `none`, and bring the page up to date."""

from pathlib import Path

from palimpsest.report import page, table
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    asked = job.reads["table"]
    rows = [
        table.of_cell(job.concept, method, base, seed, asked["attacks"], detector)
        for base, detector in asked["detectors"].items()
        for seed in asked["seeds"]
        for method in dict.fromkeys(("none", job.method))
    ]
    table.write(Path(paths.table(job.concept, job.method)), rows)
    page.refresh(job.params)


if __name__ == "__main__":
    stage.run(__doc__, "concept method", main)
