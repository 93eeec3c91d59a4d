"""Find prompts that bring an erased concept back: what to ask, not whether it works."""

from importlib import import_module
from pathlib import Path

from palimpsest import data, edits, models
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    of, settings = job.reads["attack"]["of"], job.reads["attack"]["settings"]
    source, pool = paths.prompts(job.concept, job.base), job.pool
    erased = paths.erasure(job.concept, job.method, job.base, job.seed)
    concept = data.Concept.of(job.reads["concept"], data.texts(Path(source)))
    file = paths.attack(job.concept, job.method, job.base, job.seed, job.attack)
    attack = import_module(f"palimpsest.attacks.{of}").attack
    model, images = models.load(job.reads["base"], edits.load(Path(erased))), data.Images.load(Path(pool))
    given = {"original": lambda: models.load(job.reads["base"]), "plain": data.Prompts.load(Path(source)), "seed": int(job.seed)}
    with job.scratch(source, pool, erased) as kept:
        with job.cost(paths.beside(file, ".cost.json"), kept):
            prompts = attack(model, concept, images, **given, **settings)
        prompts.save(Path(file), job.record(settings, source, pool, erased))


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack --part", main)
