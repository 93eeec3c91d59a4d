"""What a base needs to be examined, looked for before anything is drawn: packages, files, models. One line says what is missing."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.workflow import params, signatures
from palimpsest.workflow.complaints import ParamsError
from palimpsest.workflow.plan import texts

FOLDERS = {"prompts": "prompts", "reference": "references", "scores": "scores"}
CARDS = ("model_index.json", "config.json")  # by which a model is known on the hub


def check(settings: Mapping[str, Any], base: str) -> None:
    """Whether everything is here with which a base is drawn, asked and judged.

    Raises:
        ParamsError: something is not; the line names what needs it and how to get it.
    """
    for section, folder in FOLDERS.items():
        said = params.examined(settings, section, base)
        for name, entry in said.items() if section == "scores" else [(section, said)]:
            for package in absent(folder, entry.get("of", name)):
                raise ParamsError(f"{key(section, name)} of {base} needs the package {package}, which is not installed; {remedy(package)}")
            remote = "base_url" in entry.get("settings", {})  # its model lies on another machine
            for text in () if remote else texts(entry):
                found(f"{key(section, name)} of {base}", text)
    said = settings["bases"][base]
    model(f"bases.{base}", said.get("config", said["path"]), said.get("revision"))


def key(section: str, name: str) -> str:
    return f"scores.{name}" if section == "scores" else section


@cache
def absent(folder: str, of: str) -> tuple[str, ...]:
    """Packages that a plug-in imports, at its top or in a function, and that cannot be found."""
    nodes = list(ast.walk(signatures.source(folder, of)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    tops = dict.fromkeys(name.split(".")[0] for name in names)
    return tuple(top for top in tops if top not in sys.stdlib_module_names and importlib.util.find_spec(top) is None)


def remedy(package: str) -> str:
    """Which extra of this project brings a package, if one does."""
    for line in importlib.metadata.requires("palimpsest") or ():
        needed, _, extra = line.partition("extra == ")
        if extra and needed.replace("_", "-").startswith(package.replace("_", "-")):
            return f"`pip install -e '.[{extra.strip(chr(34))}]'` brings it"
    return f"`pip install {package}` brings it"


def found(who: str, text: str) -> None:
    """Whether a file or a model that a setting names can be had."""
    if text in params.external() and not Path(text).exists():
        raise ParamsError(f"{who} needs {text}, which is not there; `snakemake --cores 1 {text}` fetches it")
    if text.startswith(("data/", "./", "/")) and not Path(text).exists():
        raise ParamsError(f"{who} needs {text}, which is not there; put it there, or name another in params.yaml")
    if text.count("/") == 1 and " " not in text and not Path(text).exists():
        model(who, text, None)


@cache
def model(who: str, name: str, revision: str | None) -> None:
    """Whether a model lies in a folder, in the cache of the hub, or on the hub itself, where it may be gated."""
    if Path(name).exists():
        return
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if any(isinstance(try_to_load_from_cache(name, card, revision=revision), str) for card in CARDS):
        return
    if constants.HF_HUB_OFFLINE:
        raise ParamsError(f"{who} needs {name}, which is not in the cache of the hub ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set")
    try:
        HfApi().auth_check(name)
        HfApi().model_info(name, revision=revision, timeout=20)
    except GatedRepoError:
        raise ParamsError(f"{who} needs {name}, which is gated; accept its licence on its page, then `hf auth login`") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at {revision}" if revision else ""
        raise ParamsError(f"{who} needs {name}{at}, which the hub does not know; name a folder or another model in params.yaml") from None
    except Exception as error:  # of requests or httpx: the hub is out of reach
        said = f"{who} needs {name}, which is not in the cache, and the hub cannot be reached ({type(error).__name__})"
        raise ParamsError(f"{said}; fetch it where there is a network, or name a folder") from None
