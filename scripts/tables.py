"""Write docs/<section>-mini.md: the methods, concepts, attacks and seeds that a section of params.yaml names, from scores that are here."""

from pathlib import Path

from palimpsest.files import write_text
from palimpsest.report import table, tables
from palimpsest.workflow import params, plan, sheets, stage


def main(job: stage.Stage) -> None:
    params.known("section", [job.section], tables.TITLES)
    grid, counts = job.params[job.section], job.params["prompts"].get("settings", {})
    shown = counts.get("concept_prompts", 60), counts.get("other_prompts", 100)
    parts = [tables.head(job.section, *shown, len(grid["seeds"]))]
    for concept in grid["concepts"]:
        fields = sheets.concept(concept)
        detector = fields["detectors"]["mini"]
        budgets = plan.budgets(job.params, grid["attacks"], concept, "mini")
        cells = [table.Cell(concept, method, "mini", seed) for method in grid["methods"] for seed in grid["seeds"]]
        rows = [table.of_cell(cell, budgets, detector, fields["kind"]) for cell in cells]
        parts.append(tables.page(concept, rows))
        if len(grid["seeds"]) > 1:
            parts.append(tables.findings(rows, [name for name in grid["attacks"] if name != "none"]))
    parts.append(tables.allowed(budgets))
    write_text(Path(f"docs/{job.section}-mini.md"), "\n".join(parts))


if __name__ == "__main__":
    stage.run(__doc__, "section", main)
