"""Write the real pictures that generated ones are compared with as a set, and their scores."""

from pathlib import Path

from palimpsest import data, pieces, scores
from palimpsest.mini import render, world
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    settings, file = job.reads["reference"], Path(paths.reference(job.base))
    made = render.renders(settings["images"], seed=settings["seed"])
    rows = [data.Prompt(s.caption, n, "other", "" if s.thing == world.EMPTY else s.thing, s.style) for n, s in enumerate(made.scenes)]
    with job.scratch() as kept:
        pieces.pictures(
            file, rows, lambda piece: map(data.to_tensor, made.pictures[piece]), job.record(settings),
            kept=kept, batch=len(rows), roles=["reference"] * len(rows),
        )  # fmt: skip
    scores.together(job.reads["scores"], data.Images.load(file), None).save(Path(paths.reference_scores(job.base)), job.record(settings))


if __name__ == "__main__":
    stage.run(__doc__, "base", main)
