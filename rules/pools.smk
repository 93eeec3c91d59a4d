rule gen_prompts:
    input:
        concept_file,
        code=script("gen_prompts", f"palimpsest/prompts/{SETTINGS['prompts']['of']}.py"),
    output:
        paths.prompts("{concept}", "{base}"),
    log:
        "logs/gen_prompts/{concept}-{base}.log",
    benchmark:
        "benchmarks/runs/gen_prompts/{concept}-{base}.tsv"
    params:
        **tracked("prompts"),
        base=base_entry,
    message:
        "{wildcards.concept}: write prompts for {wildcards.base}"
    shell:
        "python {input.code[0]} {wildcards.concept} {wildcards.base} > {log} 2>&1"


rule gen_image_pool:
    input:
        concept_file,
        weights,
        paths.prompts("{concept}", "{base}"),
        code=script("gen_image_pool"),
    output:
        paths.pool("{concept}", "{base}"),
    log:
        "logs/gen_image_pool/{concept}-{base}.log",
    benchmark:
        "benchmarks/runs/gen_image_pool/{concept}-{base}.tsv"
    resources:
        gpu=1,
    params:
        **tracked("pool"),
        base=base_entry,
    message:
        "{wildcards.concept}: draw a pool with the unedited {wildcards.base}"
    shell:
        "python {input.code[0]} {wildcards.concept} {wildcards.base} > {log} 2>&1"


rule sdedit_pairs:
    input:
        concept_file,
        weights,
        paths.prompts("{concept}", "{base}"),
        paths.pool("{concept}", "{base}"),
        code=script("sdedit_pairs"),
    output:
        paths.pairs("{concept}", "{base}"),
    log:
        "logs/sdedit_pairs/{concept}-{base}.log",
    benchmark:
        "benchmarks/runs/sdedit_pairs/{concept}-{base}.tsv"
    resources:
        gpu=1,
    params:
        **tracked("pairs"),
        base=base_entry,
    message:
        "{wildcards.concept}: redraw pool pictures without it"
    shell:
        "python {input.code[0]} {wildcards.concept} {wildcards.base} > {log} 2>&1"


rule gen_reference:
    input:
        weights,
        code=script("gen_reference", "palimpsest/scores/__init__.py"),
    output:
        paths.reference("{base}"),
        paths.reference_scores("{base}"),
    log:
        "logs/gen_reference/{base}.log",
    benchmark:
        "benchmarks/runs/gen_reference/{base}.tsv"
    params:
        **tracked("reference", "scores"),
    message:
        "Reference pictures for {wildcards.base}"
    shell:
        "python {input.code[0]} {wildcards.base} > {log} 2>&1"
