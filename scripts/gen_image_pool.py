"""Draw pictures of a concept with the unedited model: what methods and attacks learn from."""

from itertools import cycle, islice
from pathlib import Path

from tqdm import tqdm

from palimpsest import data, diffusion, models
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    count = job.reads["pool"]["images"]
    source = paths.prompts(job.concept, job.base)
    texts = islice(cycle(data.texts(Path(source))["pool"]), count)
    rows = [data.Prompt(text, seed) for seed, text in enumerate(texts)]
    pictures = diffusion.draw(models.load(job.reads["base"]), data.Prompts(rows), **job.sampler)
    made = ((row, pixels, "pool") for row, pixels in zip(rows, tqdm(pictures, "pool", count, mininterval=1), strict=True))
    data.save_images(Path(paths.pool(job.concept, job.base)), made, job.record(job.reads["sampler"], source))


if __name__ == "__main__":
    stage.run(__doc__, "concept base", main)
