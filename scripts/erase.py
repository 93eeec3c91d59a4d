"""Erase a concept from a model with a method: what was changed, beside it what it cost."""

import shutil
from importlib import import_module
from pathlib import Path

from palimpsest import data, models, optimise
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    of, settings = job.plugin("methods", job.method)
    source, pool, pairs = paths.prompts(job.concept, job.base), job.pool, paths.pairs(job.concept, job.base)
    concept = data.Concept.of(job.concept_fields(), data.texts(Path(source)))
    images = data.Images.load(Path(pool), Path(pairs))
    file = paths.erasure(job.concept, job.method, job.base, job.seed)
    method, model = import_module(f"palimpsest.methods.{of}"), models.load(job.base_entry)
    work = job.work(source, pool, pairs, settings=settings)
    with optimise.resumable(work) as earlier, job.cost(paths.beside(file, ".cost.json"), earlier):
        erasure = method.erase(model, concept, images, seed=int(job.seed), **settings)
    erasure.save(Path(file), job.record(settings, source, pool, pairs))
    shutil.rmtree(work)


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed", main)
