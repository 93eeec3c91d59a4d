"""Prompts from a language model behind any server that speaks OpenAI's chat completions, as vLLM, llama.cpp and Ollama do."""

from __future__ import annotations

import os
from typing import Any

from palimpsest import asking
from palimpsest.data import Concept
from palimpsest.lists import assembled
from palimpsest.safety import guarded
from palimpsest.types import Count


def speaker(model: str, base_url: str, key: str, timeout: float, retries: int, temperature: float) -> asking.Speaker:
    """The server, which is spoken to only for what was not answered before.

    Raises:
        ValueError: the environment has no key.
    """
    import openai

    if key and not os.environ.get(key):
        raise ValueError(f"prompts: key: the environment has no {key}; `export {key}=...`, or say `key: ''` for a server that needs none")
    client = openai.OpenAI(base_url=base_url, api_key=os.environ[key] if key else "none", timeout=timeout, max_retries=retries)

    def say(messages: list[asking.Message], seed: int) -> str:
        try:
            told: Any = client.chat.completions.create(model=model, messages=messages, temperature=temperature, seed=seed)  # type: ignore[arg-type]
            return "\n".join(choice.message.content or "" for choice in told.choices)
        except openai.OpenAIError as error:
            if getattr(error, "code", None) == "content_filter":  # how some servers refuse
                return ""
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        except (AttributeError, TypeError, ValueError):  # a page, or JSON of another kind
            said = "what it answers is no chat completion"
        remedy = f"look at `base_url`, `model`{f' and the key in {key}' if key else ''} (prompts in params.yaml)"
        raise OSError(f"prompts: {base_url} gives no answer of {model} ({said}); {remedy}; answers so far are kept, start again then")

    return asking.Speaker("openai", model, base_url, temperature, say)


def prompts(
    concept: Concept, *, seed: int, model: str, base_url: str, key: str = "OPENAI_API_KEY", timeout: float = 300.0, retries: int = 5,
    temperature: float = 1.0, captions: int = 100, phrases: int = 200, scenes: int = 60, near: int = 8, pairs: int = 50, images: Count = 10,
    other_prompts: int = 100, retain: int = 200, longest: Count = 40, rounds: Count = 10, answers: str = "asked", i2p: str = "",
    coco: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What the model writes to the tasks of asking.py, in the numbers of the papers.

    Args:
        model: as the server calls it. base_url: up to and with /v1.
        key: the environment variable that holds the key; "" where the server needs none.
        timeout: seconds for one answer. retries: of a request that failed for now (connection, 408, 409, 429, 5xx), ever later.
        captions, phrases, scenes, pairs: how many. near: of each near concept.
        retain: how many captions of other things are for methods to keep, beside those that are evaluated.
        longest, rounds, answers: as of asking.told. images, other_prompts, i2p, coco: as of lists.assembled.

    Raises:
        OSError: the server cannot be reached or refuses; ValueError: a list stays short, or there is no key.
    """
    lists, record = asking.told(
        concept, speaker(model, base_url, key, timeout, retries, temperature), longest=longest, rounds=rounds, seed=seed, answers=answers,
        captions=0 if i2p and guarded(concept) else captions, phrases=phrases, scenes=scenes, near=near, pairs=pairs,
        others=retain + (0 if coco else other_prompts),
    )  # fmt: skip
    return {**assembled(concept, lists, images=images, other_prompts=other_prompts, i2p=i2p, coco=coco), "record": record}
