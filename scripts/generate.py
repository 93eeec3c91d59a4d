"""Draw what an erased model answers to an attack's prompts."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from palimpsest import data, diffusion, edits, models, pieces
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    erased = paths.erasure(job.concept, job.method, job.base, job.seed)
    source = paths.attack(job.concept, job.method, job.base, job.seed, job.attack)
    file = Path(paths.images(job.concept, job.method, job.base, job.seed, job.attack))
    prompts = data.Prompts.load(Path(source))

    stored = pieces.lasting(prompts.rows, None if job.method == "none" else job.reads.get("others_on_disk"))
    shown = [prompts.rows[n] for n in stored]
    model = cache(lambda: models.drawing(job.reads["base"], edits.load(Path(erased)), compiled=job.compiled))

    with job.scratch(erased, source) as kept:
        pieces.pictures(
            file, prompts.rows, lambda piece: diffusion.draw(model(), replace(prompts, rows=shown[piece]), **job.sampler),
            job.record(job.reads["sampler"], erased, source), kept=kept, batch=job.sampler["batch"], roles=[job.attack] * len(prompts.rows),
            stored=stored,
        )  # fmt: skip


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack --part", main)
