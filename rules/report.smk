def cells(place):
    """A path for each base, seed and attack of the grid, for the method and for `none` beside it."""

    def found(wildcards):
        method = known("methods", wildcards.method)
        return [
            place(wildcards.concept, m, base, seed, attack)
            for m in dict.fromkeys(("none", method))
            for base in GRID["bases"]
            for seed in GRID["seeds"]
            for attack in GRID["attacks"]
        ]

    return found


rule report:
    input:
        concept_file,
        cells(
            lambda concept, method, base, seed, attack: paths.erasure(
                concept, method, base, seed
            )
        ),
        cells(paths.images),
        cells(paths.scores),
        [paths.reference_scores(base) for base in GRID["bases"]],
        code=[*script("report"), "palimpsest/report/page.html"],
    output:
        paths.table("{concept}", "{method}"),
    log:
        "logs/report/{concept}-{method}.log",
    benchmark:
        "benchmarks/runs/report/{concept}-{method}.tsv"
    params:
        **tracked("grid", "report"),
    message:
        "{wildcards.concept}: table of {wildcards.method}"
    shell:
        "python {input.code[0]} {wildcards.concept} {wildcards.method} > {log} 2>&1"
