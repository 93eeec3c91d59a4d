SHOWN = SETTINGS["phenomena"]
CONTROL = "mini-without-church"
CELLS = [
    (c, m, "mini", s)
    for c in SHOWN["concepts"]
    for m in SHOWN["methods"]
    for s in SHOWN["seeds"]
]
CELLS += [
    (c, "none", CONTROL, s)
    for c in SHOWN["concepts"]
    if CONTROL.endswith(c)
    for s in SHOWN["seeds"]
]


rule phenomena:
    input:
        measured(CELLS, SHOWN["attacks"]),
    output:
        "docs/phenomena.md",
    log:
        "logs/phenomena.log",
    shell:
        "python scripts/phenomena.py > {log} 2>&1"
