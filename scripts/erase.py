"""Erase a concept from a model with a method: what was changed, beside it what it cost."""

from importlib import import_module
from pathlib import Path

from palimpsest import data, models
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    of, settings = job.reads["method"]["of"], job.reads["method"]["settings"]
    source, pool, pairs = paths.prompts(job.concept, job.base), job.pool, paths.pairs(job.concept, job.base)
    concept = data.Concept.of(job.reads["concept"], data.texts(Path(source)))
    images = data.Images.load(Path(pool), Path(pairs))
    file = paths.erasure(job.concept, job.method, job.base, job.seed)
    method, model = import_module(f"palimpsest.methods.{of}"), models.load(job.reads["base"])
    others = paths.erasure(job.concept, "*", job.base, job.seed)
    with job.scratch(source, pool, pairs, entry="method", others=others) as kept:
        with job.cost(paths.cost(job.concept, job.method, job.base, job.seed), kept):
            erasure = method.erase(model, concept, images, seed=int(job.seed), **settings)
        shared = {"shared": kept.shared} if kept.shared else {}
        erasure.save(Path(file), {**job.record(settings, source, pool, pairs), **shared})


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed", main)
