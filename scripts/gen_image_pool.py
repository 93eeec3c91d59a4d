"""Draw pictures of a concept, and of what may take its place, with the unedited model: what methods and attacks learn from."""

from functools import cache
from itertools import cycle, islice
from pathlib import Path

from palimpsest import data, diffusion, models, pieces, scores
from palimpsest.workflow import paths, stage

ANCHORS = 50_000  # seeds of anchor pictures start here
CAPTIONED = 300_000  # and here those of pictures of the captions, which attacks may learn from
APART = 1_000_000  # between the pools of two `pool.seed`s


def main(job: stage.Stage) -> None:
    source, file = paths.prompts(job.concept, job.base), Path(paths.pool(job.concept, job.base))
    texts, counts = data.texts(Path(source)), job.reads["pool"]
    first = APART * counts.get("seed", 0)
    rows = [data.Prompt(text, first + n) for n, text in enumerate(islice(cycle(texts["pool"]), counts["images"]))]
    without = texts.get("without", texts["anchors"])
    rows += [data.Prompt(text, first + ANCHORS + n) for n, text in enumerate(islice(cycle(without), counts["anchors"]))]
    captions = [text for text in texts.get("captions", ()) for _ in range(counts.get("captions", 0))]
    rows += [data.Prompt(text, first + CAPTIONED + n) for n, text in enumerate(captions)]
    roles = ["pool"] * counts["images"] + ["anchor"] * counts["anchors"] + ["captioned"] * len(captions)
    judge = scores.judge(job.reads["scores"], job.reads["detector"]) if captions else None

    model = cache(lambda: models.drawing(job.reads["base"], compiled=job.compiled))

    with job.scratch(source) as kept:
        pieces.pictures(
            file, rows, lambda piece: diffusion.draw(model(), data.Prompts(rows[piece]), **job.sampler),
            job.record(job.reads["sampler"], source), kept=kept, batch=job.sampler["batch"], roles=roles,
            order=judge and pieces.strongest("captioned", judge),
        )  # fmt: skip


if __name__ == "__main__":
    stage.run(__doc__, "concept base --part", main)
