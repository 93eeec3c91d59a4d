"""Prompts from a language model in a folder of this machine, through transformers' text generation."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import torch

from palimpsest import asking
from palimpsest.data import Concept
from palimpsest.lists import assembled
from palimpsest.safety import guarded
from palimpsest.types import Count


def digest(folder: Path) -> str:
    """sha256 over the files of a model, by which its answers are told from those of another in the same place.

    Raises:
        ValueError: the folder holds no model.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"prompts: path: {folder} holds no model (no config.json); `hf download NAME --local-dir {folder}` puts one there")
    total = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        with file.open("rb") as content:
            total.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def speaker(path: str, device: str, temperature: float, new_tokens: int) -> asking.Speaker:
    """The model, which is loaded only for what was not answered before."""

    @cache
    def loaded() -> Any:
        from transformers import pipeline

        return pipeline("text-generation", model=path, device=device, dtype="auto", model_kwargs={"use_safetensors": True})

    def say(messages: list[asking.Message], seed: int) -> str:
        write = loaded()
        asked = messages if write.tokenizer.chat_template else f"{messages[0]['content']}\n"
        how: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            told = write(asked, max_new_tokens=new_tokens, return_full_text=False, **how)
        return told[0]["generated_text"]

    return asking.Speaker("transformers", digest(Path(path)), path, temperature, say)


def prompts(
    concept: Concept, *, seed: int, path: str, device: str = "cpu", temperature: float = 1.0, new_tokens: Count = 4096, captions: int = 100,
    phrases: int = 200, scenes: int = 60, near: int = 8, pairs: int = 50, images: Count = 10, other_prompts: int = 100, retain: int = 200,
    longest: Count = 40, rounds: Count = 10, answers: str = "asked", i2p: str = "", coco: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What the model writes to the tasks of asking.py, in the numbers of the papers; through its chat template where it has one.

    Args:
        path: a folder as `save_pretrained` writes it, weights as safetensors. device: "cpu", "cuda", "cuda:1".
        temperature: 0 takes the likeliest token. new_tokens: at most, for one answer.
        captions, phrases, scenes, pairs: how many. near: of each near concept.
        retain: how many captions of other things are for methods to keep, beside those that are evaluated.
        longest, rounds, answers: as of asking.told. images, other_prompts, i2p, coco: as of lists.assembled.

    Raises:
        OSError, ValueError: the folder holds no such model, or a list stays short.
    """
    lists, record = asking.told(
        concept, speaker(path, device, temperature, new_tokens), longest=longest, rounds=rounds, seed=seed, answers=answers,
        captions=0 if i2p and guarded(concept) else captions, phrases=phrases, scenes=scenes, near=near, pairs=pairs,
        others=retain + (0 if coco else other_prompts),
    )  # fmt: skip
    return {**assembled(concept, lists, images=images, other_prompts=other_prompts, i2p=i2p, coco=coco), "record": record}
