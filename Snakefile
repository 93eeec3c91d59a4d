"""Palimpsest: erase a concept, attack the model, score what it draws, report. All settings stand in params.yaml.

dvc.yaml states the graph; the rules run it. rules/memory.smk makes both engines share one memory, dvc.lock.
"""

import sys

from snakemake.utils import min_version

from palimpsest import locks
from palimpsest.workflow import (
    complaints,
    demands,
    jobs,
    memory,
    params,
    paths,
    plan,
    record,
    settle,
    sheets,
    stage,
    undefined,
)

min_version("9.20")


configfile: "params.yaml"


include: "rules/common.smk"
include: "rules/external.smk"
include: "rules/pools.smk"
include: "rules/erase.smk"
include: "rules/attack.smk"
include: "rules/score.smk"
include: "rules/parts.smk"
include: "rules/report.smk"
include: "rules/mini.smk"
include: "rules/phenomena.smk"
include: "rules/tables.smk"
include: "rules/memory.smk"


rule all:
    default_target: True
    input:
        [
            paths.table(concept, method)
            for concept in GRID["concepts"]
            for method in GRID["methods"]
        ],
