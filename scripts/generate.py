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

    model = cache(lambda: models.load(job.reads["base"], edits.load(Path(erased))))

    with job.scratch(erased, source) as kept:
        pieces.pictures(
            file, prompts.rows, lambda piece: diffusion.draw(model(), replace(prompts, rows=prompts.rows[piece]), **job.sampler),
            job.record(job.reads["sampler"], erased, source), kept=kept, batch=job.sampler["batch"], roles=[job.attack] * len(prompts.rows),
        )  # fmt: skip


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack --part", main)
