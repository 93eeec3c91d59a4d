# Tables over many methods and concepts, each a section of params.yaml beside `grid`: docs/table1-mini.md and the like.
for section in params.TABLES:

    rule:
        name:
            section
        input:
            measured(
                [
                    (concept, method, "mini", seed)
                    for concept in SETTINGS[section]["concepts"]
                    for method in SETTINGS[section]["methods"]
                    for seed in SETTINGS[section]["seeds"]
                ],
                SETTINGS[section]["attacks"],
            ),
        output:
            f"docs/{section}-mini.md",
        log:
            f"logs/{section}.log",
        params:
            section=section,
        shell:
            "python scripts/tables.py {params.section} > {log} 2>&1"
