"""Write the paper's Table 1 on the embedded model, docs/table1-mini.md, from scores that are here."""

from pathlib import Path

from palimpsest.files import write_text
from palimpsest.report import table, table1
from palimpsest.workflow import params, plan, stage

HEAD = """# Table 1 on the embedded model

Made by `make table1-mini`: {images} pictures of the concept and {others} others a cell, one seed of edit and attack. Ratio, Score, Others
and the attacks' success (ASR) in percent; Others: how often the judge sees what a prompt without the concept names. Lower is better but for
CLIP-Score and Others; the best of a column is bold, the second in italics.
"""


def main(job: stage.Stage) -> None:
    grid, counts = job.params["table1"], job.params["prompts"]["settings"]
    parts = [HEAD.format(images=counts.get("concept_prompts", 60), others=counts.get("other_prompts", 100))]
    for concept in grid["concepts"]:
        detector = params.read_concept(concept)["detectors"]["mini"]
        budgets = plan.budgets(job.params, grid["attacks"], concept)
        cells = [table.Cell(concept, method, "mini", grid["seeds"][0]) for method in grid["methods"]]
        parts.append(table1.page(concept, [table.of_cell(cell, budgets, detector) for cell in cells]))
    write_text(Path("docs/table1-mini.md"), "\n".join(parts))


if __name__ == "__main__":
    stage.run(__doc__, "", main)
