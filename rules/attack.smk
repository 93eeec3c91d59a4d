for name in SETTINGS["attacks"]:

    rule:
        name:
            f"attack_{name}"
        input:
            concept_file,
            weights,
            paths.prompts("{concept}", "{base}"),
            pool,
            paths.erasure(*JOB),
            code=script("attack", of("attacks", name)),
        output:
            paths.attack(*JOB, name),
        log:
            f"logs/attack_{name}/{{concept}}-{{method}}-{{base}}-s{{seed}}.log",
        benchmark:
            f"benchmarks/runs/attack_{name}/{{concept}}-{{method}}-{{base}}-s{{seed}}.tsv"
        resources:
            gpu=1,
        params:
            **tracked(f"attacks.{name}"),
            base=base_entry,
            attack=name,
        message:
            "{wildcards.concept}: attack {wildcards.method} with {params.attack} ({wildcards.base}, seed {wildcards.seed})"
        shell:
            "python {input.code[0]} {wildcards.concept} {wildcards.method} {wildcards.base} {wildcards.seed} {params.attack} > {log} 2>&1"
