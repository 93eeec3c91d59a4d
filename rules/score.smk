rule generate:
    input:
        weights,
        paths.erasure(*JOB),
        paths.attack(*JOB, "{attack}"),
        code=script("generate"),
    output:
        paths.images(*JOB, "{attack}"),
    log:
        "logs/generate/{concept}-{method}-{base}-s{seed}-{attack}.log",
    benchmark:
        "benchmarks/runs/generate/{concept}-{method}-{base}-s{seed}-{attack}.tsv"
    resources:
        gpu=1,
    params:
        base=base_entry,
    message:
        "{wildcards.concept}: draw with {wildcards.method} under attack {wildcards.attack} ({wildcards.base}, seed {wildcards.seed})"
    shell:
        "python {input.code[0]} {wildcards.concept} {wildcards.method} {wildcards.base} {wildcards.seed} {wildcards.attack} > {log} 2>&1"


rule score:
    input:
        weights,
        paths.images(*JOB, "{attack}"),
        paths.images("{concept}", "none", "{base}", "{seed}", "none"),
        code=script("score")
        + sorted({of("scores", name) for name in SETTINGS["scores"]}),
    output:
        paths.scores(*JOB, "{attack}"),
    log:
        "logs/score/{concept}-{method}-{base}-s{seed}-{attack}.log",
    benchmark:
        "benchmarks/runs/score/{concept}-{method}-{base}-s{seed}-{attack}.tsv"
    resources:
        gpu=1,
    params:
        **tracked("scores"),
    message:
        "{wildcards.concept}: score {wildcards.method} under attack {wildcards.attack} ({wildcards.base}, seed {wildcards.seed})"
    shell:
        "python {input.code[0]} {wildcards.concept} {wildcards.method} {wildcards.base} {wildcards.seed} {wildcards.attack} > {log} 2>&1"
