"""Look at generated pictures: raw values of every score, picture by picture. Those that no disk holds are drawn for it, and not kept."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from torch import Tensor

from palimpsest import data, diffusion, edits, models, scores
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    cell = (job.concept, job.method, job.base, job.seed)
    manifest, unedited = paths.images(*cell, job.attack), paths.images(job.concept, "none", job.base, job.seed, "none")
    erased, asked = paths.erasure(*cell), paths.attack(*cell, job.attack)

    @cache
    def edited() -> tuple[models.Model, data.Prompts]:
        return models.drawing(job.reads["base"], edits.load(Path(erased)), compiled=job.compiled), data.Prompts.load(Path(asked))

    def draw(rows: Sequence[data.Prompt]) -> Tensor:
        model, prompts = edited()
        return diffusion.drawn(model, replace(prompts, rows=rows), **job.sampler)

    entries = job.reads["scores"]
    made = scores.together(entries, data.Images.load(Path(manifest), draw=draw), data.Images.load(Path(unedited)))
    made.save(Path(paths.scores(*cell, job.attack)), job.record(entries, manifest, unedited))


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack", main)
