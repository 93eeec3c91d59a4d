"""Make the table of a method for a concept, beside the row of `none`, and bring the page up to date."""

from pathlib import Path

from palimpsest.report import page, table
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    asked = job.reads["table"]
    detectors, budgets = asked["detectors"], asked["attacks"]
    cells = [
        table.Cell(job.concept, method, base, seed)
        for base in detectors
        for seed in asked["seeds"]
        for method in dict.fromkeys(("none", job.method))
    ]
    preserved = dict.fromkeys(detectors, table.PRESERVED) | asked.get("preserved", {})
    rows = [table.of_cell(cell, budgets[cell.base], detectors[cell.base], asked["kind"], preserved[cell.base]) for cell in cells]
    own = [cell for cell in cells if cell.method == job.method]
    table.write(Path(paths.table(job.concept, job.method)), rows, table.of_units(own, budgets, detectors))
    page.refresh(job.params)


if __name__ == "__main__":
    stage.run(__doc__, "concept method", main)
