# The loop variable is bound at once in input and output, and late in shell: it must not appear there.
for name in SETTINGS["methods"]:

    rule:
        name:
            f"erase_{name}"
        input:
            concept_file,
            weights,
            paths.prompts("{concept}", "{base}"),
            pool,
            paths.pairs("{concept}", "{base}"),
            code=script("erase", of("methods", name)),
        output:
            paths.erasure("{concept}", name, "{base}", "{seed}"),
        log:
            f"logs/erase_{name}/{{concept}}-{{base}}-s{{seed}}.log",
        benchmark:
            f"benchmarks/runs/erase_{name}/{{concept}}-{{base}}-s{{seed}}.tsv"
        resources:
            gpu=1,
        params:
            **tracked(f"methods.{name}"),
            base=base_entry,
            method=name,
        message:
            "{wildcards.concept}: erase with {params.method} ({wildcards.base}, seed {wildcards.seed})"
        shell:
            "python {input.code[0]} {wildcards.concept} {params.method} {wildcards.base} {wildcards.seed} > {log} 2>&1"
