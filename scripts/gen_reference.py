"""Write the real pictures that generated ones are compared with as a set, and their scores."""

from importlib import import_module
from pathlib import Path

from palimpsest import data, pieces, scores
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    entry, file = job.reads["reference"], Path(paths.reference(job.base))
    real = import_module(f"palimpsest.references.{entry['of']}").pictures(**entry["settings"])
    with job.scratch() as kept:
        pieces.pictures(
            file, real.rows, real.pictures, job.record(entry), kept=kept, batch=128, roles=["reference"] * len(real.rows),
        )  # fmt: skip
    scores.together(job.reads["scores"], data.Images.load(file), None).save(Path(paths.reference_scores(job.base)), job.record(entry))


if __name__ == "__main__":
    stage.run(__doc__, "base", main)
