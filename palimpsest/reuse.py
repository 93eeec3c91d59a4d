"""`once`: the part of a job that others share, as STEREO's search for words before what is then done with them, is done by the first.

The key is a hash of the name of the part, its settings, and all that the job reads besides its settings, code included. Under it the
result lies in the scratch of the stage, and `Kept.shared` tells the job what to write into its record, so that others find it in its
artifact, after a pull too. For that the method puts the part's tensors, and nothing else, into `found`, and its log under its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest import locks, resume
from palimpsest.files import whole

Result = tuple[dict[str, Tensor], Any]  # tensors, and a log that can be written as JSON


def once(name: str, settings: Mapping[str, Any], make: Callable[[], Result]) -> Result:
    """What `make` gives, or gave another job. It must be a function of the settings, and of the method's arguments but for its settings.

    Outside a job there is nothing to share. One job at a time makes it; others that need it wait.
    """
    kept = resume.kept()
    if not kept or not kept.shares:
        return make()
    key, place = kept.place(name, settings)
    kept.shared[name], file = key, place.with_suffix(".safetensors")
    with locks.alone(file.with_suffix(".lock")):
        if not file.exists():
            if known := published(kept.shares.results, name, key):
                return known
            with resume.resumable(kept.folder / name) as inner:
                began, (tensors, log) = time.perf_counter(), make()
            about = {"log": json.dumps(log), "by": str(kept.folder), "seconds": str(inner.seconds + time.perf_counter() - began)}
            kept.seconds += inner.seconds
            with whole(file) as part:
                save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part, about)
            return tensors, log
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
        kept.seconds += float(about["seconds"]) if about["by"] == str(kept.folder) else 0.0  # this very job, before it was interrupted
        return load_file(file), json.loads(about["log"])


def published(results: list[Path], name: str, key: str) -> Result | None:
    """From the erasure of another job, where its tensors are here."""
    for file in results:
        found = file.with_suffix(".found.safetensors")
        with suppress(FileNotFoundError):
            about = json.loads(file.read_text())
            if about["record"].get("shared", {}).get(name) == key:
                return load_file(found), about["log"][name]
    return None
