rule gen_prompts:
    input:
        needs("gen_prompts"),
    output:
        makes("gen_prompts"),
    log:
        "logs/gen_prompts/{concept}-{base}.log",
    benchmark:
        "benchmarks/runs/gen_prompts/{concept}-{base}.tsv"
    resources:
        **asks("gen_prompts"),
    params:
        run=command("gen_prompts"),
    message:
        "{wildcards.concept}: write prompts for {wildcards.base}"
    shell:
        "{params.run} > {log} 2>&1"


rule gen_image_pool:
    input:
        needs("gen_image_pool"),
        parts("gen_image_pool"),
    output:
        makes("gen_image_pool"),
    log:
        "logs/gen_image_pool/{concept}-{base}.log",
    benchmark:
        "benchmarks/runs/gen_image_pool/{concept}-{base}.tsv"
    resources:
        **asks("gen_image_pool"),
    params:
        run=command("gen_image_pool"),
    message:
        "{wildcards.concept}: draw a pool with the unedited {wildcards.base}"
    shell:
        "{params.run} > {log} 2>&1"


rule sdedit_pairs:
    input:
        needs("sdedit_pairs"),
        parts("sdedit_pairs"),
    output:
        makes("sdedit_pairs"),
    log:
        "logs/sdedit_pairs/{concept}-{base}.log",
    benchmark:
        "benchmarks/runs/sdedit_pairs/{concept}-{base}.tsv"
    resources:
        **asks("sdedit_pairs"),
    params:
        run=command("sdedit_pairs"),
    message:
        "{wildcards.concept}: redraw pool pictures without it"
    shell:
        "{params.run} > {log} 2>&1"


rule gen_reference:
    input:
        needs("gen_reference"),
    output:
        makes("gen_reference"),
    log:
        "logs/gen_reference/{base}.log",
    benchmark:
        "benchmarks/runs/gen_reference/{base}.tsv"
    resources:
        **asks("gen_reference"),
    params:
        run=command("gen_reference"),
    message:
        "Reference pictures for {wildcards.base}"
    shell:
        "{params.run} > {log} 2>&1"
