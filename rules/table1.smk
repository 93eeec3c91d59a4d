TABLE1 = [
    (c, m, "mini", SETTINGS["table1"]["seeds"][0])
    for c in SETTINGS["table1"]["concepts"]
    for m in SETTINGS["table1"]["methods"]
]


rule table1:
    input:
        measured(TABLE1, SETTINGS["table1"]["attacks"]),
    output:
        "docs/table1-mini.md",
    log:
        "logs/table1.log",
    shell:
        "python scripts/table1.py > {log} 2>&1"
