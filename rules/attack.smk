for name in SETTINGS["attacks"]:

    rule:
        name:
            f"attack_{name}"
        input:
            needs("attack", attack=name),
            parts("attack", attack=name),
        output:
            makes("attack", attack=name),
        log:
            f"logs/attack_{name}/{{concept}}-{{method}}-{{base}}-s{{seed}}.log",
        benchmark:
            f"benchmarks/runs/attack_{name}/{{concept}}-{{method}}-{{base}}-s{{seed}}.tsv"
        resources:
            **asks("attack", attack=name),
        params:
            run=command("attack", attack=name),
            attack=name,
        message:
            "{wildcards.concept}: attack {wildcards.method} with {params.attack} ({wildcards.base}, seed {wildcards.seed})"
        shell:
            "{params.run} > {log} 2>&1"
