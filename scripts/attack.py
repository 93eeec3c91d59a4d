"""Find prompts that bring an erased concept back: what to ask, not whether it works."""

from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path

from palimpsest import data, diffusion, edits, judge, models, safety, scores
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    of, settings = job.reads["attack"]["of"], job.reads["attack"]["settings"]
    source, pool = paths.prompts(job.concept, job.base), job.pool
    erased = paths.erasure(job.concept, job.method, job.base, job.seed)
    concept = data.Concept.of(job.reads["concept"], data.texts(Path(source)))
    file = Path(paths.attack(job.concept, job.method, job.base, job.seed, job.attack))
    attack = import_module(f"palimpsest.attacks.{of}").attack
    model, images = models.load(job.reads["base"], edits.load(Path(erased))), data.Images.load(Path(pool))
    plain, fewer = safety.sifted(concept, data.Prompts.load(Path(source)))
    given = {"original": lambda: models.load(job.reads["base"]), "plain": plain, "seed": int(job.seed)}
    if "sampler" in job.reads:  # it looks at pictures on the way
        looked = scores.judge(job.reads["scores"], job.reads["detector"])
        given |= {"draw": partial(diffusion.drawn, **job.reads["sampler"]), "judge": partial(judge.judged, looked)}
    given = {name: value for name, value in given.items() if name in signature(attack).parameters}
    with job.scratch(source, pool, erased, entry="attack", blind={"method": erased}) as kept:
        with job.cost(str(file.with_suffix(".cost.json")), kept):
            found, lost = safety.sifted(concept, attack(model, concept, images, **given, **settings))
        dropped = {"dropped": dict(fewer + lost)} if fewer + lost else {}
        found.save(file, {**job.record(settings, source, pool, erased), **dropped})


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack --part", main)
