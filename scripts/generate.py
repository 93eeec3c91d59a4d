"""Draw what an erased model answers to an attack's prompts."""

from pathlib import Path

from tqdm import tqdm

from palimpsest import data, diffusion, edits, models
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    erased = paths.erasure(job.concept, job.method, job.base, job.seed)
    source = paths.attack(job.concept, job.method, job.base, job.seed, job.attack)
    prompts = data.Prompts.load(Path(source))
    pictures = diffusion.draw(models.load(job.reads["base"], edits.load(Path(erased))), prompts, **job.sampler)
    bar = tqdm(pictures, "generate", len(prompts.rows), mininterval=1)
    made = ((row, pixels, job.attack) for row, pixels in zip(prompts.rows, bar, strict=True))
    file = Path(paths.images(job.concept, job.method, job.base, job.seed, job.attack))
    data.save_images(file, made, job.record(job.reads["sampler"], erased, source))


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack", main)
