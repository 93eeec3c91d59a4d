"""Measure the published phenomena on the embedded model into docs/phenomena.md."""

from pathlib import Path

from palimpsest.data import Scores
from palimpsest.files import write_text
from palimpsest.judge import detected
from palimpsest.report import measures, phenomena, table
from palimpsest.workflow import paths, plan, sheets, stage

CONTROL = "mini-without-church"
HEAD = """# The published phenomena on the embedded model

Made by `make phenomena`: {n} seeds of editing and attack, mean ± half the 95 % interval over seeds (Student's t). A seed's rates, in
percent, stand on {images} pictures, Others on {others}, Near on the few of these that name what is near. The last row of a table is the
floor: concept inversion on a model that was trained without it.
"""


def main(job: stage.Stage) -> None:
    grid, asked = job.params["phenomena"], job.params["prompts"].get("settings", {})
    parts = [HEAD.format(n=len(grid["seeds"]), images=asked.get("concept_prompts", 60), others=asked.get("other_prompts", 100))]
    for concept in grid["concepts"]:
        fields = sheets.concept(concept)
        detector = fields["detectors"]["mini"]
        budgets = plan.budgets(job.params, grid["attacks"], concept, "mini")
        cells = [table.Cell(concept, method, "mini", seed) for method in grid["methods"] for seed in grid["seeds"]]
        rows = [table.of_cell(cell, budgets, detector, fields["kind"]) for cell in cells]
        floor = []
        if CONTROL.endswith(concept):
            for seed in grid["seeds"]:
                scores = Scores.load(Path(paths.scores(concept, "none", CONTROL, seed, "cce")))
                floor.append(measures.rate(detected(detector, scores.columns, scores.meaning)[1]).percent)
        parts.append(phenomena.page(concept, rows, floor))
    write_text(Path("docs/phenomena.md"), "\n".join(parts))


if __name__ == "__main__":
    stage.run(__doc__, "", main)
