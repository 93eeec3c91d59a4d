"""One file a score; `together` runs several over the same pictures, `judge` asks what the concept's detector makes of them.

Beside `score` each file has `ready`, which takes some of the same settings and loads what the score looks with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from palimpsest import missing
from palimpsest.data import Images, Scores
from palimpsest.files import sha256
from palimpsest.judge import Judge, detected

Entries = Mapping[str, Mapping[str, Any]]  # name of each score -> {of: file, settings: {...}}
CHUNK = 512  # pictures in memory at a time: a multiple of the 128 that a network looks at together, so that no bit of what it says moves


def together(entries: Entries, images: Images, reference: Images | None) -> Scores:
    """The columns of every entry, joined. The words of an attack stay behind: scores may be shared.

    However many pictures there are, a chunk of them is in memory, each of it read, or drawn, once for all scores.

    Raises:
        ValueError: there are none.
    """
    if not len(images):
        raise ValueError("images: there are none to look at; see what the attack, or the list of prompts, asked for")
    ready(entries)
    firsts = range(0, len(images), CHUNK)
    bar = tqdm(firsts, desc=f"scores, {CHUNK} pictures at a time", mininterval=1, disable=len(firsts) == 1)
    parts = [looked(entries, images[n : n + CHUNK].reading_once(), reference and reference.reading_once()) for n in bar]
    columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Scores(columns, parts[0].meaning, [row.prompt.wordless() for row in images.rows], parts[0].instruments)


def looked(entries: Entries, images: Images, reference: Images | None) -> Scores:
    """What every entry says of one chunk."""
    made = [import_module(f"palimpsest.scores.{entry['of']}").score(images, reference, **entry["settings"]) for entry in entries.values()]
    columns = {name: column for scores in made for name, column in scores.columns.items()}
    meaning = {name: said for scores in made for name, said in scores.meaning.items()}
    return Scores(columns, meaning, instruments={name: said for scores in made for name, said in scores.instruments.items()})


def ready(entries: Entries) -> None:
    """Load what every entry looks with, before any picture is drawn or looked at.

    Raises:
        ValueError: something is not there or is not what it should be; one line names the score, and how to get it.
    """
    for name, entry in entries.items():
        score = import_module(f"palimpsest.scores.{entry['of']}")
        given = signature(score.score).bind(None, None, **entry["settings"])
        given.apply_defaults()
        try:
            score.ready(**{setting: given.arguments[setting] for setting in signature(score.ready).parameters})
        except ModuleNotFoundError as error:
            raise ValueError(f"scores.{name} needs {missing.package(str(error.name).split('.')[0])}") from None
        except (OSError, ValueError, RuntimeError) as error:  # the last of weights that are another network's
            raise ValueError(f"scores.{name}: {shorten(str(error), 500)}") from error


def judge(entries: Entries, detector: Mapping[str, Any]) -> Judge:
    """The concept's detector on pictures, by the scores that it reads; they are ready when it is handed over."""
    ready(entries)

    def look(images: Images) -> tuple[Tensor, Tensor]:
        made = together(entries, images, None)
        return detected(detector, made.columns, made.meaning)

    return look


@torch.no_grad()
def distances(images: Images, reference: Images | None, look: Callable[[Tensor, Tensor], Tensor], batch: int = 128) -> Tensor:
    """How far each picture is from the reference's for the same prompt and seed, "n"; not a number where the reference has none.

    Args:
        look: from pictures "b 3 h w" in [-1, 1], and as many of the reference, to their distances "b".
    """
    made = torch.full((len(images),), float("nan"))
    if reference is None:
        return made
    place = {(row.prompt.text, row.prompt.seed): n for n, row in enumerate(reference.rows)}
    pairs = [(n, place[key]) for n, row in enumerate(images.rows) if (key := (row.prompt.text, row.prompt.seed)) in place]
    for first in range(0, len(pairs), batch):
        ours, theirs = zip(*pairs[first : first + batch], strict=True)
        made[list(ours)] = look(images.pixels(ours), reference.pixels(theirs)).cpu()
    return made


def tensors(file: str | Path, digest: str = "") -> dict[str, Tensor]:
    """Weights by name: of a safetensors file, or of one in PyTorch's own format, from which nothing but tensors is taken.

    Args:
        digest: first figures of the sha256 that the file must have.

    Raises:
        FileNotFoundError: there is no such file; ValueError: it is another, or is damaged.
    """
    path = there(file)
    if not checksum(path).startswith(digest):
        raise ValueError(f"{path} has the sha256 {checksum(path)}, and {digest}... is wanted; is it another file, or cut off?")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError):  # of what is no tensor; of what is cut off
        raise ValueError(f"{path} holds something else than tensors, or is damaged; get it again, or convert it to safetensors") from None


def published(url: str, file: str | None) -> Path:
    """Where weights of torchvision lie: in a file that was named, or in torch.hub's cache; nothing is fetched.

    Raises:
        FileNotFoundError: they do not; the message says what to do.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if file is None and not cached.exists():
        raise FileNotFoundError(f"{cached} is not there; put {url} there, or name the file in params.yaml")
    return there(file or cached)


def there(file: str | Path) -> Path:
    if not Path(file).exists():
        raise FileNotFoundError(f"{file} is not there; put it there, or name another in params.yaml")
    return Path(file)


checksum = cache(sha256)


def instrument(package: str, file: Path, **conventions: Any) -> dict[str, Any]:
    """What looked: a package with its version, the sha256 of the weights, and by which conventions."""
    return {"package": f"{package} {version(package)}", "weights": checksum(file), **conventions}
