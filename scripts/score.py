"""Look at generated pictures: raw values of every score, picture by picture."""

from pathlib import Path

from palimpsest import data, scores
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    manifest = paths.images(job.concept, job.method, job.base, job.seed, job.attack)
    unedited = paths.images(job.concept, "none", job.base, job.seed, "none")
    entries = job.reads["scores"]
    made = scores.together(entries, data.Images.load(Path(manifest)), data.Images.load(Path(unedited)))
    file = Path(paths.scores(job.concept, job.method, job.base, job.seed, job.attack))
    made.save(file, job.record(entries, manifest, unedited))


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed attack", main)
