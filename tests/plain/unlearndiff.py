"""UnlearnDiffAtk one prompt at a time: autograd through the vocabulary product, bisection row by row, lists of tokens joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from palimpsest.data import Concept, Images, Prompt, Prompts, to_bytes
from palimpsest.draws import Seeded, Stream
from palimpsest.types import Model
from plain import known, noisy, said

DEFAULTS: dict[str, Any] = {
    "k": 5, "insertion": "prefix", "mode": "faithful", "start": "uniform", "timesteps": 50, "iterations": 40, "lr": 0.01,
    "weight_decay": 0.1, "stop_early": True, "prompts": None,
}  # fmt: skip


def projected(row: Tensor, tolerance: float = 1e-5) -> Tensor:
    """One row "v" on the simplex, by bisection."""
    if abs(row.clamp(0, 1).sum().item() - 1) <= tolerance:
        return row.clamp(0, 1)
    low, high = (row - 1).min().item(), row.max().item()
    while high - low > tolerance:
        mu = (low + high) / 2
        over = (row - mu).clamp(0, 1).sum() - 1
        if over == 0:
            break
        low, high = (mu, high) if over > 0 else (low, mu)
    return (row - mu).clamp(0, 1)


def sorted_projection(row: Tensor) -> Tensor:
    """The nearest point of the simplex, exactly: Duchi et al. 2008, by sorting."""
    falling = row.sort(descending=True).values
    excess = falling.cumsum(0) - 1
    support = int((falling * torch.arange(1, len(row) + 1) > excess).sum())
    return (row - excess[support - 1] / support).clamp(min=0)


class Sampled(torch.autograd.Function):
    """One-hot rows, straight through backward."""

    @staticmethod
    def forward(_: Any, rows: Tensor, picked: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(picked, rows.shape[1]).to(rows)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return torch.nn.functional.hardtanh(gradient), None


def inserted(prompt: Sequence[Any], found: Sequence[Any], where: str) -> list[Any]:
    """The found things among those of the prompt."""
    prompt, found, half = list(prompt), list(found), len(prompt) // 2
    if where == "spread":
        share = len(prompt) // (len(found) + 1)
        parts = [[*prompt[share * n : share * (n + 1)], one] for n, one in enumerate(found)]
        return [*chain(*parts), *prompt[share * len(found) :]]
    if where == "every-3":
        parts = [[one, *prompt[3 * n : 3 * n + 3]] for n, one in enumerate(found[:-1])]
        return [*chain(*parts), found[-1], *prompt[3 * len(found) - 3 :]]
    return {"prefix": found + prompt, "suffix": prompt + found, "middle": prompt[:half] + found + prompt[half:]}[where]


def spoken(model: Model, rows: list[Tensor], *, end: bool = True, pad: int | None = None) -> Tensor:
    """The context of a sequence of embeddings, begin and end not among them."""
    tokenizer, table = model.tokenizer, model.text_encoder.get_input_embeddings()
    fill = [tokenizer.eos_token_id] if end else []
    fill += [tokenizer.pad_token_id if pad is None else pad] * (tokenizer.model_max_length - len(rows) - 1 - len(fill))
    whole = torch.cat([table.weight[[tokenizer.bos_token_id]], torch.stack(rows), table.weight[fill]])[None]
    hook = table.register_forward_hook(lambda *_: whole)
    context = model.text_encoder(torch.zeros(whole.shape[:2], dtype=torch.long)).last_hidden_state
    hook.remove()
    return context


@torch.no_grad()
def target(model: Model, row: Prompt, draw: Callable[..., Tensor]) -> Tensor:
    """The latents of a prompt's picture by this model."""
    pixels = to_bytes(draw(model, Prompts([row]), batch=1)) / 127.5 - 1
    return model.vae.encode(pixels).latent_dist.mean * model.vae.config.scaling_factor


def attack(
    model: Model, concept: Concept, images: Images, *, original: Callable[[], Model], plain: Prompts, seed: int,
    draw: Callable[..., Tensor], judge: Callable[..., Any], draws: Stream = Seeded, **settings: Any,
) -> Prompts:  # fmt: skip
    """The rows and the log of ours; `settings` as in `DEFAULTS`."""
    asked = known(DEFAULTS, settings)
    first, answers = original(), []
    for row in plain.units(asked["prompts"]).rows:
        found = one(model, row, target(first, row, draw), lambda row: draws(seed + row.seed), draw, judge, asked)
        answers.append(found)
    return Prompts([row for a in answers for row in a.rows], log=[line for a in answers for line in a.log])


def one(model: Model, row: Prompt, x0: Tensor, stream: Any, draw: Any, judge: Any, asked: dict[str, Any]) -> Prompts:
    """The search of one prompt."""

    def won(row: Prompt) -> bool:
        return asked["stop_early"] and bool(judge(draw(model, Prompts([row]), batch=1), [row])[1][0])

    rows, log = [row], []
    if won(row):
        return Prompts(rows)
    table, tokenizer = model.text_encoder.get_input_embeddings().weight, model.tokenizer
    prompt, draws = tokenizer(row.text, add_special_tokens=False).input_ids, stream(row)
    k, vocabulary, size = asked["k"], len(tokenizer), x0.shape[-1]
    start = torch.full((k, vocabulary), 1 / vocabulary) if asked["start"] == "uniform" else draws.integers(2**24, k, vocabulary) / 2**24
    relaxed = torch.stack([projected(one) for one in start]).requires_grad_()
    descent = torch.optim.Adam([relaxed], lr=asked["lr"], weight_decay=asked["weight_decay"])
    share = 1000 // asked["timesteps"]
    for stage, t in enumerate(range(share // 2, share * asked["timesteps"], share), 1):
        draws, spent = stream(row) if asked["mode"] == "faithful" else draws, 0.0
        for _ in range(asked["iterations"]):
            hot = Sampled.apply(relaxed, draws.categorical(relaxed.detach()))
            eps = draws.noise(x0.shape[1], size, size)[None]
            context = spoken(model, inserted(table[prompt], hot @ table, asked["insertion"]))
            loss = torch.nn.functional.mse_loss(said(model.unet, noisy(model, x0, t, eps), t, context), eps)
            (relaxed.grad,) = torch.autograd.grad(loss, [relaxed])
            descent.step()
            relaxed.data = torch.stack([projected(one) for one in relaxed.data])
            spent += loss.item()
        ids = inserted(prompt, relaxed.argmax(1).tolist(), asked["insertion"])
        text = tokenizer.decode([n for n in ids if n != tokenizer.eos_token_id])
        same = float(tokenizer(text, add_special_tokens=False).input_ids == ids)
        log.append({"unit": row.unit, "stage": stage, "t": t, "loss": spent / asked["iterations"], "same": same})
        by = "text" if asked["mode"] == "faithful" else "ids"
        rows.append(row._replace(text=text, stage=stage, ids=tuple(ids), by=by))
        if won(rows[-1]):
            break
    return Prompts(rows, log=log)
