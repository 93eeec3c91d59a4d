rule report:
    input:
        needs("report"),
    output:
        makes("report"),
    log:
        "logs/report/{concept}-{method}.log",
    benchmark:
        "benchmarks/runs/report/{concept}-{method}.tsv"
    resources:
        **asks("report"),
    params:
        run=command("report"),
    message:
        "{wildcards.concept}: table of {wildcards.method}"
    shell:
        "{params.run} > {log} 2>&1"
