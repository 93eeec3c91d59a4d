TABLE1 = [
    (c, m, "mini", SETTINGS["table1"]["seeds"][0])
    for c in SETTINGS["table1"]["concepts"]
    for m in SETTINGS["table1"]["methods"]
]


rule table1:
    input:
        [
            paths.scores(*cell, attack)
            for cell in TABLE1
            for attack in SETTINGS["table1"]["attacks"]
        ],
        [paths.cost(*cell) for cell in TABLE1],
        paths.reference_scores("mini"),
    output:
        "docs/table1-mini.md",
    log:
        "logs/table1.log",
    shell:
        "python scripts/table1.py > {log} 2>&1"
