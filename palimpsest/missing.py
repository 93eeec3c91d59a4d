"""What is said of a package or a model that is not here: the end of a complaint, with the remedy. Loads neither."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator


def package(name: str) -> str:
    """Of a package: its name, and what brings it, which is an extra of this project where one lists it."""
    listed = (line.partition("extra == ") for line in importlib.metadata.requires("palimpsest") or ())
    extras = [extra.strip('"') for needed, _, extra in listed if extra and needed.replace("_", "-").startswith(name.replace("_", "-"))]
    brings = f"-e '.[{extras[0]}]'" if extras else name
    return f"the package {name}, which is not installed; `pip install {brings}` brings it"


def model(error: BaseException) -> str:
    """Of a model behind its name, why the hub does not give it.

    Args:
        error: of the hub's client, or one that came of it.
    """
    from huggingface_hub import constants, errors

    causes = [*chain(error)]
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return "is gated; accept its licence on its page, then `hf auth login`"
    if any(isinstance(cause, errors.RevisionNotFoundError | errors.RepositoryNotFoundError) for cause in causes):
        return "is not known to the hub; name a folder or another model in params.yaml"
    if constants.HF_HUB_OFFLINE:
        return f"is not in the cache of the hub ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; fetch it where there is a network"
    said = " ".join(str(causes[-1]).split()) or type(causes[-1]).__name__
    return f"cannot be had from the hub: {said}; fetch it where there is a network, or name a folder"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of, the first of all last."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
