# What real bases are examined with (data/external.yaml): fetched by address and digest when a run names it.
for place in sheets.external():

    rule:
        name:
            f"fetch_{Path(place).stem}"
        output:
            directory(place) if "." not in Path(place).name else place,
        log:
            f"logs/fetch/{Path(place).name}.log",
        priority: 100
        params:
            place=place,
        message:
            f"Fetch {place}"
        shell:
            "python scripts/fetch.py {params.place} > {log} 2>&1"
