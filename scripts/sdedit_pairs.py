"""Redraw pool pictures without the concept (SDEdit): the same scene, the concept's name replaced by its anchor and made negative."""

from functools import cache
from pathlib import Path

from torch import Generator, Tensor

from palimpsest import data, diffusion, models, pieces
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    settings, sampler = job.reads["pairs"], job.sampler
    source, pool, file = paths.prompts(job.concept, job.base), job.pool, Path(paths.pairs(job.concept, job.base))
    texts, images = data.texts(Path(source)), data.Images.load(Path(pool)).only("pool")
    anchor = dict(zip(texts["pool"], texts["anchors"], strict=True))
    rows = [row.prompt._replace(text=anchor[row.prompt.text]) for row in images.rows[: settings["images"]]]

    model = cache(lambda: models.load(job.reads["base"]))

    def redrawn(piece: slice) -> Tensor:
        wanted = range(len(rows))[piece]
        whole = diffusion.filled(wanted, sampler["batch"])
        draws = [Generator().manual_seed(rows[n].seed) for n in whole]
        latent = diffusion.posterior(model(), diffusion.moments(model(), images.pixels(whole)), diffusion.noise(model(), draws))
        negative = diffusion.encode(model(), texts["negative"][:1])
        mix = model().guide(diffusion.encode(model(), [rows[n].text for n in whole]), negative, sampler["guidance"])
        eps = diffusion.noise(model(), draws)
        x = diffusion.sdedit(model(), latent, mix, eps, strength=settings["strength"], steps=sampler["steps"])
        return diffusion.decode(model(), x)[: len(wanted)]

    with job.scratch(source, pool) as kept:
        pieces.pictures(
            file, rows, redrawn, job.record(settings, source, pool), kept=kept, batch=sampler["batch"], roles=["clean"] * len(rows)
        )


if __name__ == "__main__":
    stage.run(__doc__, "concept base --part", main)
