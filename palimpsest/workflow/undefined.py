"""Methods and attacks that are not defined on the family of a base: their jobs make results that hold nothing and say why.

A family names in LACKS what is not defined on it, with the reason; a method or an attack names in NEEDS what it cannot do without.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from palimpsest.files import sha256, whole, write_json
from palimpsest.workflow import signatures
from palimpsest.workflow.complaints import known
from palimpsest.workflow.jobs import Job

AXES = {"method": "methods", "attack": "attacks"}


def reason(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Why the method or the attack of a job is not defined on its base, in one sentence; "" where both are.

    Raises:
        ParamsError: params.yaml does not know a name.
    """
    for axis, section in AXES.items() if "base" in names else ():
        if axis in names:
            known("bases", [names["base"]], settings["bases"])
            known(section, [names[axis]], settings[section])
            lacked = signatures.literal("families", settings["bases"][names["base"]].get("family", "sd"), "LACKS")
            needs = signatures.literal(section, settings[section][names[axis]].get("of", names[axis]), "NEEDS") or ()
            for why in (lacked[need] for need in needs if need in lacked):
                return f"{names[axis]} is not defined on {names['base']}: {why}"
    return ""


def of_grid(settings: Mapping[str, Any]) -> Iterator[str]:
    """What of the grid is skipped, each with its reason."""
    for base, (axis, section) in itertools.product(settings["grid"]["bases"], AXES.items()):
        for name in settings["grid"][section]:
            if why := reason(settings, {axis: name, "base": base}):
                yield why


def skip(job: Job, why: str) -> None:
    """Make the outputs of a job without doing it: no tensors, no pictures, small files that say why. Those are written last."""
    for out in map(Path, job.outs):
        if out.suffix == ".safetensors":
            with whole(out) as part:
                save_file({}, part)
        elif not out.suffix:
            out.mkdir(parents=True, exist_ok=True)
    for small in map(Path, job.small):
        tensors = small.with_suffix(".safetensors")
        vouched = {"tensors": sha256(tensors)} if tensors.exists() else {}
        write_json(small, {"skipped": why, **vouched})
