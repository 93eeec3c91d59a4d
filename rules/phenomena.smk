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
        [paths.scores(*cell, attack) for cell in CELLS for attack in SHOWN["attacks"]],
        [paths.cost(*cell) for cell in CELLS],
        paths.reference_scores("mini"),
    output:
        "docs/phenomena.md",
    log:
        "logs/phenomena.log",
    shell:
        "python scripts/phenomena.py > {log} 2>&1"
