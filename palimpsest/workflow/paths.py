"""Where everything lies. Rules call these with wildcards ("{concept}"), scripts with names; base and seed are in the file names."""

from __future__ import annotations

PLAN = "results/plan/"  # what the jobs of the grid read besides other jobs' results: made by the stage `plan`
OTHER_PLAN = "work/plan/"  # the same for jobs outside the grid


def concept(concept: str) -> str:
    return f"data/concepts/{concept}.yaml"


def prompts(concept: str, base: str) -> str:
    return f"results/{concept}/prompts/{base}.json"


def pool(concept: str, base: str) -> str:
    return f"results/{concept}/pool/{base}/manifest.json"


def pairs(concept: str, base: str) -> str:
    return f"results/{concept}/pairs/{base}/manifest.json"


def reference(base: str) -> str:
    return f"results/reference/{base}/manifest.json"


def reference_scores(base: str) -> str:
    return f"results/reference/scores/{base}.json"


def erasure(concept: str, method: str, base: str, seed: int | str) -> str:
    return f"results/{concept}/{method}/adapters/{base}-s{seed}.json"


def cost(concept: str, method: str, base: str, seed: int | str) -> str:
    return f"results/{concept}/{method}/costs/{base}-s{seed}.json"


def attack(concept: str, method: str, base: str, seed: int | str, attack: str) -> str:
    return f"results/{concept}/{method}/attacks/{base}-s{seed}/{attack}.json"


def images(concept: str, method: str, base: str, seed: int | str, attack: str) -> str:
    return f"results/{concept}/{method}/images/{base}-s{seed}/{attack}/manifest.json"


def scores(concept: str, method: str, base: str, seed: int | str, attack: str) -> str:
    return f"results/{concept}/{method}/scores/{base}-s{seed}/{attack}.json"


def table(concept: str, method: str) -> str:
    return f"results/{concept}/{method}/table.csv"


PAGE = "results/report.html"
RESERVED = ("reference", "plan")  # names that no concept may have
FOLDERS = ("prompts", "pool", "pairs")  # names that no method may have


def beside(path: str, ending: str) -> str:
    """The companion of a small file, as its cost (.cost.json)."""
    return path.rsplit(".", 1)[0] + ending
