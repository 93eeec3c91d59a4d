"""CCE as released: the whole table trained and restored, pictures through the VAE at every step, one after another, each with a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palimpsest import guidance as guidances
from palimpsest.data import Concept, Images
from palimpsest.types import Model
from plain import copied, known, latent, noise, noisy, said
from plain import encode as encoded

DEFAULTS: dict[str, Any] = {
    "vectors": 1, "steps": 5000, "batch": 16, "lr": 0.08, "weight_decay": 0.01, "captions": "templates", "objective": "noise",
    "guidance": 7.5, "path_steps": 1000, "path_batch": 4, "path_lr": 0.02, "path_span": 90, "path_levels": 35, "warmup": None,
}  # fmt: skip
FILLER = "object"  # a word of one token, in no caption: where the learned word stands


class Table:
    """The text encoder with new rows for the word, behind those of the tokenizer."""

    def __init__(self, model: Model, initialiser: str, vectors: int) -> None:
        self.model, self.vectors, self.first = model, vectors, len(model.tokenizer)
        old, (start,) = model.text_encoder.get_input_embeddings().weight, model.tokenizer(initialiser, add_special_tokens=False).input_ids
        model.text_encoder.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat([old, old[[start] * vectors]]).detach()))
        self.rows = model.text_encoder.get_input_embeddings().weight.requires_grad_()
        self.kept = self.rows.detach().clone()

    def encode(self, text: str) -> Tensor:
        """The context of a text with {} in place of the word."""
        tokenizer, length = self.model.tokenizer, self.model.tokenizer.model_max_length
        text = text.format(" ".join([FILLER] * self.vectors))
        ids = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        ids[ids == tokenizer(FILLER, add_special_tokens=False).input_ids[0]] = torch.arange(self.first, self.first + self.vectors)
        return self.model.text_encoder(ids).last_hidden_state

    def restore(self) -> None:
        with torch.no_grad():
            self.rows[: self.first] = self.kept[: self.first]


def against(
    model: Model, x: Tensor, eps: Tensor, path: list[int], word: Tensor, goal: Tensor, erased: Any, settings: dict[str, Any]
) -> Tensor:
    """|| u + s (c - u) - g(*) ||^2 at the last level; `erased` is a negative prompt, or SLD's safety text with its settings."""
    s, null = settings["guidance"], encoded(model, [""])
    text, sld = erased
    n, state = encoded(model, [text]), None
    for t in path:
        x_t = noisy(model, x, t, eps)
        u, e_n, e_word = (said(model.unet, x_t, t, c) for c in (null, n, word))
        if sld is None:
            guess = e_n + s * (e_word - e_n)
        else:
            step = 10**6 if settings["warmup"] is None else (999 - t) * settings["warmup"] // 1000
            guess, state = guidances.safe(n, **sld)(word, null, s).combine((u, e_word, e_n), step, state)
    return (u + s * (said(model.unet, x_t, t, goal) - u) - guess).pow(2).mean()


def levels(settings: dict[str, Any], rows: int, draws: torch.Generator) -> list[list[int]]:
    """Of each picture."""
    if settings["objective"] == "guidance":
        return [[int(t)] for t in torch.randint(1000, (1, rows), generator=draws)[0]]
    span, paths = settings["path_span"], []
    for _ in range(rows):
        n = int(torch.randint(span, 1000, (1,), generator=draws))
        paths.append(sorted((torch.randperm(span, generator=draws)[: settings["path_levels"]] + n - span).tolist(), reverse=True))
    return paths


def learn(
    model: Model, concept: Concept, images: Images, *, seed: int, erased: Any = None, look: Any = None, **given: Any
) -> tuple[Tensor, list[float]]:
    """The word's vectors "k d" and the losses.

    Args:
        erased: of a guidance: the text that it turns away from, and SLD's settings or None.
        look: called with the table's gradient at every step.
    """
    settings, model = known(DEFAULTS, given), copied(model)
    pool, templates, draws = images.only("pool"), list(concept.texts["templates"]), torch.Generator().manual_seed(seed)
    pixels, table, losses = pool.pixels(), Table(model, concept.initialiser, settings["vectors"]), []
    prefix = "path_" if settings["objective"] == "path" else ""
    steps, size, lr = (settings[prefix + name] for name in ("steps", "batch", "lr"))
    descent = torch.optim.AdamW([table.rows], lr=lr, weight_decay=settings["weight_decay"])
    for _ in range(steps):
        rows, mirrored = torch.randint(len(pixels), (size,), generator=draws), torch.randint(2, (size,), generator=draws)
        spread = noise(model, size, draws)
        if settings["objective"] == "noise":
            paths = [[int(t)] for t in torch.randint(1000, (size,), generator=draws)]
        else:
            paths = levels(settings, size, draws)
        eps, losses = noise(model, size, draws), [*losses, 0.0]
        lines = torch.randint(len(templates), (size,), generator=draws) if settings["captions"] == "templates" else rows
        descent.zero_grad()
        for n, row in enumerate(rows):
            picture, own = pixels[[int(row)]], pool.rows[int(row)].prompt.text
            x = latent(model, picture.flip(-1) if mirrored[n] else picture, spread[[n]])
            word = table.encode("{} " + own if settings["captions"] == "prompts" else templates[lines[n]])
            if settings["objective"] == "noise":
                (t,) = paths[n]
                loss = (eps[[n]] - said(model.unet, noisy(model, x, t, eps[[n]]), t, word)).pow(2).mean()
            else:
                goal = encoded(model, [own if settings["captions"] == "prompts" else erased[0]])
                loss = against(model, x, eps[[n]], paths[n], word, goal, erased, settings)
            (loss / size).backward()
            losses[-1] += loss.item() / size
        if look:
            look(table.rows.grad)
        descent.step()
        table.restore()
    return table.rows[table.first :].detach(), losses
