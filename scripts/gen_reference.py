"""Write the real pictures that generated ones are compared with as a set, and their scores."""

from pathlib import Path

from palimpsest import data, scores
from palimpsest.mini import render, world
from palimpsest.workflow import paths, stage


def main(job: stage.Stage) -> None:
    settings = job.reads["reference"]
    made = render.renders(settings["images"], seed=settings["seed"])
    rows = [data.Prompt(s.caption, n, "other", "" if s.thing == world.EMPTY else s.thing, s.style) for n, s in enumerate(made.scenes)]
    pixels = (data.to_tensor(picture) for picture in made.pictures)
    file = Path(paths.reference(job.base))
    data.save_images(file, ((row, picture, "reference") for row, picture in zip(rows, pixels, strict=True)), job.record(settings))
    scores.together(job.reads["scores"], data.Images.load(file), None).save(Path(paths.reference_scores(job.base)), job.record(settings))


if __name__ == "__main__":
    stage.run(__doc__, "base", main)
