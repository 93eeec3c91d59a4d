"""What the verbs hand to one another, and how it lies on disk: `Concept`, `Prompts`, `Images`, `Scores`.

Each is one small JSON file with its record (settings, seed, versions, input hashes) and, beside it, what is large: learned vectors and
score columns as safetensors, pictures as PNG named in the manifest by their sha256. The JSON is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest.files import sha256, whole, write_json


@dataclass(frozen=True)
class Concept:
    """What is to be erased. `texts` holds the prompt lists that gen_prompts made for it, by name."""

    name: str
    kind: str  # "inappropriate", "object" or "style"
    words: tuple[str, ...]  # what the concept is called; the first is its name in prompts
    adjective: str  # for "a * photo", as in "a nude photo"; the word itself where there is none
    anchor: str  # what may take its place
    initialiser: str  # one token to start an inversion from
    classes: tuple[str, ...]  # the judge's classes that show it
    near: tuple[str, ...]  # concepts that must survive
    sensitive: bool
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def word(self) -> str:
        return self.words[0]

    def erased(self, texts: str, method: str) -> list[str]:
        """The texts that a method erases, by its setting `texts`: the concept's "words", or its texts to "train" on.

        Raises:
            ValueError: there are none.
        """
        said = self.words if texts == "words" else self.texts.get(texts, ())
        if not said:
            raise ValueError(f"{method}: texts is {texts!r}, but {self.name} has none; run gen_prompts or set texts: words")
        return list(said)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Sentences with the concept beside the same without it: lists of their own where the prompts have such, or pool and anchors."""
        named = ("pairs", "without") if "pairs" in self.texts else ("pool", "anchors")
        told, without = (self.texts.get(name, ()) for name in named)
        if len(told) != len(without):
            raise ValueError(f"concept {self.name}: of {named[0]} and {named[1]} in its prompts one is longer; make them again")
        return list(zip(told, without, strict=True))

    @classmethod
    def of(cls, fields: Mapping[str, Any], texts: Mapping[str, Sequence[str]] | None = None) -> Self:
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return cls(texts=texts or {}, **lists)  # type: ignore[arg-type]


ALONE = -1  # no unit
PLAIN = ("text", "seed", "purpose", "shows", "style")


class Prompt(NamedTuple):
    """One thing to ask: a text (learned words stand in it as <name>), the seed of its picture, why it is asked, what it should show."""

    text: str
    seed: int
    purpose: str = "concept"  # "concept": should show the erased concept; "other": something else; "near": a near concept
    shows: str = ""  # the judge's class that the text names, where that is known
    style: str = ""  # the style that the text names, where that is known
    unit: int = ALONE  # of an attack: which row of the plain prompts it is about
    stage: int = 0  # of a search: number of the checkpoint; 0 is the plain prompt itself
    ids: tuple[int, ...] = ()  # of a search: the token ids that it found; the text is what they decode to
    by: str = "text"  # whether the model is asked with the "text" or with the "ids"

    @property
    def asked(self) -> str | tuple[int, ...]:
        return self.ids if self.by == "ids" else self.text

    def wordless(self) -> Self:
        """Without what an attack asks, which is not for everyone; a plain prompt as it is."""
        return self if self.unit == ALONE else self._replace(text="", ids=())

    def fields(self) -> dict[str, Any]:
        """For JSON: what an attack says is left out where it says nothing."""
        said = self._asdict()
        return {key: said[key] for key in self._fields if key in PLAIN or said[key] != self._field_defaults[key]}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**{**fields, "ids": tuple(fields.get("ids", ()))})


def said(setting: str, text: str, *place: str, **names: str) -> str:
    """The text of a setting with what its braces stand for: {} for `place`, {name} for what has that name.

    Raises:
        ValueError: others are in it.
    """
    try:
        return text.format(*place, **names)
    except (LookupError, ValueError, AttributeError) as error:
        wrong = f"unknown {{{error.args[0]}}}" if isinstance(error, KeyError) else f"{error}"
        allowed = ", ".join(f"{{{name}}}" for name in (*("" for _ in place), *names))
        raise ValueError(f"{setting}: {wrong} in {text!r}; allowed: {allowed}") from None


def texts(file: Path) -> dict[str, list[str]]:
    """The prompt lists of a prompts file, by name."""
    return json.loads(file.read_text())["texts"]


@dataclass(frozen=True)
class Prompts:
    rows: Sequence[Prompt]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)  # learned words: name -> "k d"
    log: Sequence[Mapping[str, float]] = ()

    def units(self, count: int | None = None) -> Self:
        """What an attack is about: the prompts that should show the concept, the first `count` of them, each with its number."""
        rows = [row._replace(unit=n) for n, row in enumerate(self.rows) if row.purpose == "concept"]
        return replace(self, rows=rows[:count])

    def save(self, file: Path, record: Mapping[str, Any]) -> None:
        tensors = save_tensors(file.with_suffix(".safetensors"), self.vectors)
        write_json(file, {"record": record, "tensors": tensors, "prompts": [row.fields() for row in self.rows], "log": list(self.log)})

    @classmethod
    def load(cls, file: Path) -> Self:
        about, vectors = json.loads(file.read_text()), file.with_suffix(".safetensors")
        return cls([Prompt.of(row) for row in about["prompts"]], load_file(vectors) if vectors.exists() else {}, about.get("log", ()))


class Picture(NamedTuple):
    """One picture of a manifest, with what was asked for it. One that lies on no disk has no sha256."""

    file: str
    sha256: str
    prompt: Prompt
    role: str = "pool"


@dataclass(frozen=True)
class Images:
    """Pictures on disk, in memory or yet to be drawn; `pixels` hands them out, `batches` more of them than there is room for."""

    rows: Sequence[Picture]
    folder: Path
    held: dict[Picture, Image.Image] | None = None  # those that lie in memory; where it is not None, one that is asked for joins them
    draw: Callable[[Sequence[Prompt]], Tensor] | None = None  # pictures "n 3 h w" in [-1, 1] of those that lie on no disk

    @classmethod
    def of(cls, prompts: Sequence[Prompt], pixels: Tensor) -> Images:
        """Pictures "n 3 h w" in [-1, 1] that are on no disk, rounded to bytes as they would be there."""
        rows = [Picture(f"{n:05d}.png", "", prompt) for n, prompt in enumerate(prompts)]
        return cls(rows, Path(), {row: to_picture(picture) for row, picture in zip(rows, pixels, strict=True)})

    def pictures(self, rows: Sequence[int] | None = None) -> list[Image.Image]:
        """Of these rows, or of all.

        Raises:
            ValueError: one lies on no disk, and nothing was said of how to draw it.
        """
        picked = self.rows if rows is None else [self.rows[n] for n in rows]
        held = {} if self.held is None else self.held
        unseen = [row for row in dict.fromkeys(picked) if not row.sha256 and row not in held]
        if unseen:
            if self.draw is None:
                raise ValueError(f"the picture of {unseen[0].prompt.text!r} lies on no disk; it is drawn where it is scored")
            held.update(zip(unseen, map(to_picture, self.draw([row.prompt for row in unseen])), strict=True))
        for row in picked:
            if row not in held:
                held[row] = read(self.folder / row.file)
        return [held[row] for row in picked]

    def pixels(self, rows: Sequence[int] | None = None) -> Tensor:
        """float "n 3 h w" in [-1, 1] of these rows, or of all."""
        return torch.stack([to_tensor(picture) for picture in self.pictures(rows)])

    def batches(self, size: int = 128) -> Iterator[Tensor]:
        """The pixels of `size` pictures after the other."""
        return (self[n : n + size].pixels() for n in range(0, len(self), size))

    def __getitem__(self, rows: slice) -> Images:
        return replace(self, rows=self.rows[rows])

    def reading_once(self) -> Images:
        """The same pictures, of which each stays in memory from when it is first read until these are let go."""
        return replace(self, held=dict(self.held or {}))

    def only(self, role: str) -> Images:
        return replace(self, rows=[row for row in self.rows if row.role == role])

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def load(cls, *manifests: Path, draw: Callable[[Sequence[Prompt]], Tensor] | None = None) -> Images:
        """The pictures of one or more manifests, as one set; `draw` makes those that these only list."""
        places = [manifest.absolute().parent for manifest in manifests]  # not resolved: a manifest may be a link into DVC's cache
        top = Path(os.path.commonpath(places))
        rows: list[Picture] = []
        for manifest, place in zip(manifests, places, strict=True):
            for row in json.loads(manifest.read_text())["pictures"]:
                path = place / row["file"]
                if row["sha256"] and not path.exists():
                    raise FileNotFoundError(f"{path} is listed in {manifest} but is not there; `dvc pull {manifest.parent}` brings it back")
                rows.append(Picture(str(path.relative_to(top)), row["sha256"], Prompt.of(row["prompt"]), row["role"]))
        return cls(rows, top, draw=draw)


def read(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB")


def to_tensor(picture: Image.Image) -> Tensor:
    """PIL -> float "3 h w" in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def to_bytes(pixels: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8 of the same shape, rounded as diffusers rounds."""
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_picture(pixels: Tensor) -> Image.Image:
    """float "3 h w" in [-1, 1] -> PIL."""
    return Image.fromarray(to_bytes(pixels).permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class Scores:
    """Raw values of every picture: columns "n" or "n m" in the order of the manifest, what they mean, what was asked for."""

    columns: Mapping[str, Tensor]
    meaning: Mapping[str, Any]
    prompts: Sequence[Prompt] = ()
    instruments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what looked, for columns whose score says so
    skipped: str = ""  # why there are none: the method or the attack is not defined on the base (workflow/undefined.py)

    def save(self, file: Path, record: Mapping[str, Any]) -> None:
        tensors = save_tensors(file.with_suffix(".safetensors"), self.columns)
        said = {"instruments": self.instruments} if self.instruments else {}
        prompts = [row.fields() for row in self.prompts]
        write_json(file, {"record": record, "tensors": tensors, "meaning": self.meaning, **said, "prompts": prompts})

    @classmethod
    def load(cls, file: Path) -> Self:
        about = json.loads(file.read_text())
        if "skipped" in about:
            return cls({}, {}, skipped=about["skipped"])
        columns, rows = load_file(file.with_suffix(".safetensors")), [Prompt.of(row) for row in about["prompts"]]
        return cls(columns, about["meaning"], rows, about.get("instruments", {}))


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Safetensors; an empty mapping gives an empty file of the format. Returns its sha256, by which the JSON beside it vouches for it."""
    with whole(file) as part:
        save_file({name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}, part)
    return sha256(file)
