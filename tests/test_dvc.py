"""dvc.yaml against the Snakefile's own parts: commands, code, settings."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml
from conftest import TOP

from palimpsest.workflow import code, params, signatures

STAGES: dict[str, Any] = yaml.safe_load((TOP / "dvc.yaml").read_text())["stages"]
AXES = {"concept": "concepts", "method": "methods", "attack": "attacks", "base": "bases", "seed": "seeds"}
SETTINGS = params.load(TOP / "params.yaml")


def items(stage: str) -> list[dict[str, Any]]:
    """Every combination of a stage's matrix."""
    matrix = STAGES[stage]["matrix"]
    assert matrix == {name: f"${{grid.{AXES[name]}}}" for name in matrix}
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*(SETTINGS["grid"][AXES[name]] for name in matrix))]


def filled(text: str, item: dict[str, Any]) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda found: str(item[found[1]]), text)


@pytest.mark.parametrize("stage", list(STAGES))
def test_every_file_that_a_stage_runs_is_a_dependency(stage: str) -> None:
    for item in items(stage):
        plugins = {
            "gen_prompts": [f"palimpsest/prompts/{SETTINGS['prompts']['of']}.py"],
            "erase": [f"palimpsest/methods/{item.get('method')}.py"],
            "attack": [f"palimpsest/attacks/{item.get('attack')}.py"],
            "score": [f"palimpsest/scores/{name}.py" for name in signatures.registry("scores")],
        }.get(stage, [])
        listed = [filled(dependency, item) for dependency in STAGES[stage]["deps"]]
        for file in code.closure(f"scripts/{stage}.py", *plugins):
            if not file.endswith("__init__.py"):
                assert any(file == place or file.startswith(place + "/") for place in listed), f"{stage}: {file} is no dependency"
        for place in listed:
            assert place.startswith(("results/", "data/mini/manifest.json")) or (TOP / place).exists(), f"{stage}: {place} is not there"


@pytest.mark.parametrize("stage", list(STAGES))
def test_commands_name_their_job(stage: str) -> None:
    order = [name for name in ("concept", "method", "base", "seed", "attack") if name in STAGES[stage]["matrix"]]
    assert STAGES[stage]["cmd"] == " ".join([f"python scripts/{stage}.py", *(f"${{item.{name}}}" for name in order)])


def test_outputs_of_two_stages_never_meet() -> None:
    outs = [filled(out, item) for stage in STAGES for item in items(stage) for out in STAGES[stage]["outs"]]
    assert len(outs) == len(set(outs))
