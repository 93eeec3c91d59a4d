"""Redraw pool pictures without the concept (SDEdit): the same scene, the concept's name replaced by its anchor and made negative."""

from pathlib import Path

import torch
from tqdm import tqdm

from palimpsest import data, diffusion, models
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    settings, sampler = job.reads["pairs"], job.reads["sampler"]
    source, pool = paths.prompts(job.concept, job.base), job.pool
    texts = data.texts(Path(source))
    anchor = dict(zip(texts["pool"], texts["anchors"], strict=True))
    images, model = data.Images.load(Path(pool)), models.load(job.reads["base"])
    negative = diffusion.encode(model, texts["negative"][:1])

    def redrawn(n: int) -> tuple[data.Prompt, torch.Tensor, str]:
        row = images.rows[n].prompt
        row = row._replace(text=anchor[row.text])
        draws = torch.Generator().manual_seed(row.seed)
        latent = diffusion.posterior(model, diffusion.moments(model, images.pixels([n])), diffusion.noise(model, draws, 1))
        mix = model.guide(diffusion.encode(model, [row.text]), negative, sampler["guidance"])
        eps = diffusion.noise(model, draws, 1)
        x = diffusion.sdedit(model, latent, mix, eps, strength=settings["strength"], steps=sampler["steps"])
        return row, diffusion.decode(model, x)[0], "clean"

    count = min(settings["images"], len(images))
    made = (redrawn(n) for n in tqdm(range(count), "pairs", mininterval=1))
    data.save_images(Path(paths.pairs(job.concept, job.base)), made, job.record(settings, source, pool))


if __name__ == "__main__":
    stage.run(__doc__, "concept base", main)
