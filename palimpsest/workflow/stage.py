"""What every script does around its one call: names from the command line, settings, one line for an error, the record and the cost."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from palimpsest.files import sha256, write_json
from palimpsest.workflow import params, paths

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "palimpsest")
EXPECTED = (params.ParamsError, FileNotFoundError, ValueError)  # told in one line; anything else is a fault of ours and keeps its traceback


class Resumed(Protocol):
    seconds: float  # that earlier, interrupted runs spent on what was taken up


class Stage:
    """One run of a script. `names` are its positional arguments, `params` the checked settings."""

    def __init__(self, about: str, arguments: str) -> None:
        parser = argparse.ArgumentParser(description=about)
        for argument in arguments.split():
            parser.add_argument(argument)
        self.names: dict[str, str] = vars(parser.parse_args())
        self.params = params.load()

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["names"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def base_entry(self) -> dict[str, Any]:
        params.known("bases", [self.base], self.params["bases"])
        return self.params["bases"][self.base]

    @property
    def pool(self) -> str:
        """Pictures of the concept: the base's own, or those of the base that `pool_from` names."""
        return paths.pool(self.concept, self.base_entry.get("pool_from", self.base))

    def concept_fields(self) -> dict[str, Any]:
        """The concept's file, with the judge's classes for this base."""
        fields = params.read_concept(self.concept)
        detector = fields.pop("detectors")[self.base_entry["detectors"]]
        return {"name": self.concept, **fields, "classes": detector["classes"]}

    def plugin(self, section: str, name: str) -> tuple[str, dict[str, Any]]:
        params.known(section, [name], self.params[section])
        return params.plugin(self.params, section, name, self.names.get("concept", ""))

    def record(self, settings: Mapping[str, Any], *inputs: str) -> dict[str, Any]:
        """What an artifact says of its making: the same for the same inputs, so that the same work gives the same bytes."""
        return {
            "command": " ".join([Path(sys.argv[0]).stem, *self.names.values()]),
            "settings": settings,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "inputs": {file: digest(Path(file)) for file in inputs},
        }

    @contextmanager
    def cost(self, file: str, earlier: Resumed) -> Iterator[None]:
        """What the work inside took, interrupted runs included: seconds, peak memory of the process in MB.

        Not in the artifact, since it differs from run to run.
        """
        started = time.perf_counter()
        yield
        seconds, peak = earlier.seconds + time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        write_json(Path(file), {"seconds": round(seconds, 2), "peak_memory_mb": round(peak)})

    def work(self, *inputs: str, settings: Mapping[str, Any]) -> Path:
        """Scratch for this very run: another setting or another input is another folder."""
        key = json.dumps([self.names, settings, [digest(Path(file)) for file in inputs]], sort_keys=True)
        return Path("work") / Path(sys.argv[0]).stem / hashlib.sha256(key.encode()).hexdigest()[:16]


def digest(file: Path) -> str:
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; `dvc pull {file}` or the rule that makes it brings it back")
    return sha256(file)


def run(about: str | None, arguments: str, body: Callable[[Stage], None]) -> None:
    """Run a script's body: a mistake of the user's ends in one line and exit code 1."""
    try:
        body(Stage((about or "").strip(), arguments))
    except EXPECTED as error:
        sys.exit(f"palimpsest: {error}")
