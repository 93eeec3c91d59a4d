"""Forget-Me-Not a row at a time: the whole embedding table trained and restored, pictures and texts read at every step."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from palimpsest.data import Concept, Images
from palimpsest.methods.fmn import WHERE, probed
from palimpsest.types import Model
from plain import copied, latent, noise, noisy, said, trainable, values


def squares(maps: list[Tensor], places: list[int]) -> Tensor:
    """sum of A^2 over layers, heads, pixels and the marked tokens of one row; maps "h p n"."""
    return torch.stack([sum(head[:, n].square().sum() for head in a for n in places) for a in maps]).sum()


def ids_of(model: Model, template: str, word: list[int]) -> list[int]:
    """Token ids of the template with these ids in the place of {}, at full length."""
    before, after = (model.tokenizer(part, add_special_tokens=False).input_ids for part in template.split("{}"))
    ids = [model.tokenizer.bos_token_id, *before, *word, *after, model.tokenizer.eos_token_id]
    return ids + [model.tokenizer.pad_token_id] * (model.tokenizer.model_max_length - len(ids))


def learn(
    model: Model, pixels: Tensor, rows: Tensor, template: str, draws: torch.Generator, *, steps: int, lr: float, weight_decay: float,
    batch: int, norm: float | None,
) -> tuple[Model, list[float]]:  # fmt: skip
    """Stage one: a model whose table ends with the word's rows "k d", and the loss of each step."""
    size, other = len(model.text_encoder.get_input_embeddings().weight), model._replace(text_encoder=deepcopy(model.text_encoder))
    other.text_encoder.resize_token_embeddings(size + len(rows), mean_resizing=False)
    table, losses = other.text_encoder.get_input_embeddings().weight.requires_grad_(False), []
    table[size:] = rows
    before, ids = table.detach().clone(), torch.tensor([ids_of(model, template, list(range(size, len(table))))])
    adam = torch.optim.AdamW([table.requires_grad_()], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        side, picked = (torch.randint(n, (batch,), generator=draws).tolist() for n in (2, len(pixels)))
        z, t, eps = noise(model, batch, draws), torch.randint(1000, (batch,), generator=draws), noise(model, batch, draws)
        adam.zero_grad()
        losses.append(0.0)
        for n in range(batch):
            picture = pixels[[picked[n]]]
            x_t = noisy(model, latent(model, picture.flip(-1) if side[n] else picture, z[[n]]), t[[n]], eps[[n]])
            loss = (said(model.unet, x_t, t[[n]], other.text_encoder(ids).last_hidden_state) - eps[[n]]).square().mean() / batch
            loss.backward()
            losses[-1] += loss.item()
        adam.step()
        with torch.no_grad():
            table[:size] = before[:size]
            for row in range(size, len(table) if norm is not None else size):
                length = table[row].norm().item()
                table[row] *= (length + min(1.0, 100 * lr) * (norm - length)) / length  # type: ignore[operator]
    table.requires_grad_(False)
    return other, losses


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int, use_ti: bool = True, vectors: int = 4, template: str = "a photo of {}",
    ti_template: str | None = None, ti_steps: int = 500, ti_lr: float = 1e-3, ti_weight_decay: float = 0.1, ti_batch: int = 1,
    norm: float | None = 0.4, use_pooler: str = "all", trained: str = "full", loss: str = "norm", steps: int = 35, lr: float = 2e-6,
    batch: int = 1, clip: float | None = 1.0, no_real_image: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Both stages, for a concept of one word."""
    draws, pixels, told = torch.Generator().manual_seed(seed), images.only("pool").pixels(), model
    word = model.tokenizer(concept.word, add_special_tokens=False).input_ids
    if use_ti:
        old = model.text_encoder.get_input_embeddings().weight.detach()
        rows = torch.cat([old[word[:vectors]], torch.randn(vectors - len(word[:vectors]), old.shape[1], generator=draws).to(old)])
        ti = {"steps": ti_steps, "lr": ti_lr, "weight_decay": ti_weight_decay, "batch": ti_batch, "norm": norm}
        told, _ = learn(model, pixels, rows, ti_template or template, draws, **ti)  # type: ignore[arg-type]
        word = list(range(len(old), len(old) + vectors))
    ids = ids_of(model, template, word)
    ends = [n for n, token in enumerate(ids) if token == model.tokenizer.eos_token_id]
    places = [n for n, token in enumerate(ids) if token in word] + ends[: {"none": 0, "first_eos": 1, "all": len(ends)}[use_pooler]]
    student = copied(model)
    weights = trainable(student, WHERE[trained])
    adam = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=0.01)
    for _ in range(steps):
        picked = torch.randint(len(pixels), (batch,), generator=draws).tolist()
        torch.randint(1, (batch,), generator=draws)  # which of the concept's words: it has one
        z, t, eps = noise(model, batch, draws), torch.randint(1000, (batch,), generator=draws), noise(model, batch, draws)
        totals = []
        for n in range(batch):
            x = torch.zeros_like(z[[n]]) if no_real_image else latent(model, pixels[[picked[n]]], z[[n]])
            x_t = noisy(model, x, t[[n]], eps[[n]])
            with probed(student.unet) as maps:
                said(student.unet, x_t, t[[n]], told.text_encoder(torch.tensor([ids])).last_hidden_state)
            totals.append(squares(maps, places))
        total = torch.stack(totals).sum()
        adam.zero_grad()
        (total.sqrt() if loss == "norm" else total).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(weights.values(), clip)
        adam.step()
    return values(weights)
