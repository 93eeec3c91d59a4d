# The embedded model from nothing. Its weights ship in data/mini; `snakemake --cores 2 mini_weights` makes them again, part by part, in this order.
BEFORE = {
    "clip": [],
    "vae": [],
    "decoder": ["vae"],
    "judge": [],
    "unet": ["clip", "vae"],
    "control": ["clip", "vae"],
}

for name, before in BEFORE.items():

    rule:
        name:
            f"mini_{name}"
        input:
            [f"work/mini/{part}.done" for part in before],
        output:
            touch(f"work/mini/{name}.done"),
        log:
            f"logs/mini_weights/{name}.log",
        params:
            part=name,
        shell:
            "python scripts/mini_weights.py {params.part} > {log} 2>&1"


rule mini_weights:
    input:
        [f"work/mini/{part}.done" for part in BEFORE],
    shell:
        "python scripts/mini_weights.py card"
