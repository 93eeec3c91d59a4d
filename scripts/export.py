"""Write an erased model as a stock diffusers folder; low-rank factors also as a file for `load_lora_weights`."""

from pathlib import Path

from palimpsest import data, edits, models
from palimpsest.workflow import params, paths, plan, sheets, stage


def main(job: stage.Stage) -> None:
    for axis, allowed in {"concept": sheets.concepts(), "method": job.params["methods"], "base": job.params["bases"]}.items():
        params.known(axis, [job.names[axis]], allowed)
    file = Path(paths.erasure(job.concept, job.method, job.base, job.seed))
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; `snakemake --cores 1 {file}` makes it, `dvc pull {file}` brings it back")
    erasure = edits.load(file)
    if erasure.kind == "guidance":
        raise ValueError(f"{job.method} is a guidance, without weights to export; {file} holds what StableDiffusionPipelineSafe asks for")
    model = models.load(plan.part("base", job.names, job.params), erasure)
    stock = models.pipeline(model)
    stock.save_pretrained(job.folder)
    if erasure.kind == "lora" and hasattr(stock, "load_lora_weights"):
        data.save_tensors(Path(job.folder) / "pytorch_lora_weights.safetensors", models.factors(model, erasure))
    print(f"{job.folder}: {type(stock).__name__}.from_pretrained reads it")


if __name__ == "__main__":
    stage.run(__doc__, "concept method base seed folder", main)
