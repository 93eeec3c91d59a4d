"""Write an erased model as a stock diffusers folder; low-rank factors also as a file for `load_lora_weights`."""

import shutil
from pathlib import Path

from palimpsest import edits, models
from palimpsest.workflow import paths, plan, stage


def main(job: stage.Stage) -> None:
    file = Path(paths.erasure(job.concept, job.method, job.base, job.seed))
    erasure = edits.load(file)
    if erasure.kind == "guidance":
        raise ValueError(f"{job.method} is a guidance, without weights to export; {file} holds what StableDiffusionPipelineSafe asks for")
    models.pipeline(models.load(plan.part("base", job.names, job.params), erasure)).save_pretrained(job.folder)
    if erasure.kind == "lora":
        shutil.copy(file.with_suffix(".safetensors"), Path(job.folder) / "pytorch_lora_weights.safetensors")
    print(f"{job.folder}: StableDiffusionPipeline.from_pretrained reads it")


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed folder", main)
