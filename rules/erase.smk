# The loop variable is bound at once everywhere but in shell: it must not appear there.
for name in SETTINGS["methods"]:

    rule:
        name:
            f"erase_{name}"
        input:
            needs("erase", method=name),
        output:
            makes("erase", method=name),
        log:
            f"logs/erase_{name}/{{concept}}-{{base}}-s{{seed}}.log",
        benchmark:
            f"benchmarks/runs/erase_{name}/{{concept}}-{{base}}-s{{seed}}.tsv"
        resources:
            **asks("erase", method=name),
        params:
            run=command("erase", method=name),
            method=name,
        message:
            "{wildcards.concept}: erase with {params.method} ({wildcards.base}, seed {wildcards.seed})"
        shell:
            "{params.run} > {log} 2>&1"
