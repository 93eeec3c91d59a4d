"""Redraw pool pictures without the concept (SDEdit): the same scene, the concept's name replaced by its anchor and made negative."""

from functools import cache, partial
from pathlib import Path

from palimpsest import data, models, pairs, scores
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    how, sampler, gate = dict(job.reads["pairs"]), job.reads["sampler"], {}
    count, tries = how.pop("images"), how.pop("tries", 0)
    source, pool, file = paths.prompts(job.concept, job.base), job.pool, Path(paths.pairs(job.concept, job.base))
    texts, images = data.texts(Path(source)), data.Images.load(Path(pool)).only("pool")
    anchor = dict(zip(texts["pool"], texts["anchors"], strict=True))
    model = cache(lambda: models.load(job.reads["base"]))

    if tries:
        gate = {name: job.reads[name] for name in ("detector", "scores")}
        judge = scores.judge(gate["scores"], gate["detector"])
        images, values = pairs.candidates(images, judge, count)
    rows = [row.prompt._replace(text=anchor[row.prompt.text]) for row in images.rows[:count]]
    redrawn = partial(pairs.gated, judge=judge, tries=tries, before=values) if tries else pairs.plain

    with job.scratch(source, pool) as kept:
        redrawn(
            file, rows, lambda wanted: pairs.redraw(model(), images, rows, wanted, word=texts["negative"][0], **how, **sampler),
            job.record({**job.reads["pairs"], **gate}, source, pool), kept=kept, batch=job.sampler["batch"],
        )  # fmt: skip


if __name__ == "__main__":
    stage.run(__doc__, "concept base --part", main)
