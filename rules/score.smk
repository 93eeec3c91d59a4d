rule generate:
    input:
        needs("generate"),
        parts("generate"),
    output:
        makes("generate"),
    log:
        "logs/generate/{concept}-{method}-{base}-s{seed}-{attack}.log",
    benchmark:
        "benchmarks/runs/generate/{concept}-{method}-{base}-s{seed}-{attack}.tsv"
    resources:
        **asks("generate"),
    params:
        run=command("generate"),
    message:
        "{wildcards.concept}: draw with {wildcards.method} under attack {wildcards.attack} ({wildcards.base}, seed {wildcards.seed})"
    shell:
        "{params.run} > {log} 2>&1"


rule score:
    input:
        needs("score"),
    output:
        makes("score"),
    log:
        "logs/score/{concept}-{method}-{base}-s{seed}-{attack}.log",
    benchmark:
        "benchmarks/runs/score/{concept}-{method}-{base}-s{seed}-{attack}.tsv"
    resources:
        **asks("score"),
    params:
        run=command("score"),
    message:
        "{wildcards.concept}: score {wildcards.method} under attack {wildcards.attack} ({wildcards.base}, seed {wildcards.seed})"
    shell:
        "{params.run} > {log} 2>&1"
