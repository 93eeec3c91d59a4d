"""P4D one prompt at a time: the vocabulary searched by cosine row by row, the unedited model's prediction from the text at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from palimpsest import clip
from palimpsest.data import Concept, Images, Prompt, Prompts, to_bytes
from palimpsest.draws import Seeded, Stream
from palimpsest.types import Model
from plain import encode, known, noisy, said
from plain.unlearndiff import inserted, spoken

DEFAULTS: dict[str, Any] = {
    "form": "optml", "k": 5, "insertion": "prefix", "mode": "faithful", "timesteps": 50, "iterations": 40, "lr": 0.01, "weight_decay": 0.1,
    "stop_early": True, "length": 16, "steps": 3000, "every": 50, "clip_model": "", "pictures": 1, "span": "signed", "padding": "model",
    "filter": None, "prompts": None,
}  # fmt: skip


def nearest(row: Tensor, table: Tensor) -> int:
    """The id of the word nearest to a vector "d" by cosine."""
    return int(torch.cosine_similarity(row[None], table).argmax())


def target(model: Model, row: Prompt, draw: Any, judge: Any, asked: dict[str, Any]) -> tuple[Tensor, Any]:
    """The unedited model's picture that shows the concept most, and its posterior."""
    rows = [row._replace(seed=row.seed + n) for n in range(asked["pictures"])]
    pixels = torch.cat([to_bytes(draw(model, Prompts([one]), batch=1)) / 127.5 - 1 for one in rows])
    best = judge(pixels, rows)[0].argmax()
    picture = pixels[best][None]
    with torch.no_grad():
        return picture, model.vae.encode(picture if asked["span"] == "signed" else picture / 2 + 0.5).latent_dist


def attack(
    model: Model, concept: Concept, images: Images, *, original: Callable[[], Model], plain: Prompts, seed: int,
    draw: Callable[..., Tensor], judge: Callable[..., Any], draws: Stream = Seeded, **settings: Any,
) -> Prompts:  # fmt: skip
    """The rows and the log of ours; `settings` as in `DEFAULTS`."""
    asked, first, answers = known(DEFAULTS, settings), original(), []
    search = sequential if asked["form"] == "optml" else at_random
    for row in plain.units(asked["prompts"]).rows:
        answers.append(search(model, first, row, lambda row: draws(seed + row.seed), draw, judge, asked))
    return Prompts([row for a in answers for row in a.rows], log=[line for a in answers for line in a.log])


class Step:
    """What both searches do: the variable, a step on it, the prompt that it stands for."""

    def __init__(self, model: Model, first: Model, row: Prompt, draws: Any, asked: dict[str, Any]) -> None:
        self.model, self.first, self.row, self.asked = model, first, row, asked
        self.table = model.text_encoder.get_input_embeddings().weight
        self.prompt = model.tokenizer(row.text, add_special_tokens=False).input_ids if asked["form"] != "n" else []
        count = {"optml": asked["k"], "n": asked["length"], "k": len(self.prompt) // 3 + 1}[asked["form"]]
        self.where = {"optml": asked["insertion"], "n": "prefix", "k": "every-3"}[asked["form"]]
        self.momentum, self.steps = torch.zeros(()), 0
        self.fill = {"end": asked["form"] == "n", "pad": 0} if asked["padding"] == "zero" else {}
        self.variable = self.table[draws.integers(len(self.table), count)].clone().requires_grad_()

    def found(self) -> list[int]:
        return [nearest(one, self.table) for one in self.variable.detach()]

    def gradient(self, x0: Tensor, t: int, eps: Tensor) -> float:
        q = self.table[self.found()].clone().requires_grad_()
        x_t = noisy(self.first, x0, t, eps)
        wanted = said(self.first.unet, x_t, t, encode(self.first, [self.row.text]))
        context = spoken(self.model, inserted(self.table[self.prompt], q, self.where), **self.fill)
        made = said(self.model.unet, x_t, t, context)
        if self.asked["filter"]:
            made = self.filtered(made, said(self.model.unet, x_t, t, encode(self.model, [self.asked["filter"]["text"]])))
        loss = torch.nn.functional.mse_loss(wanted, made)
        (self.variable.grad,) = torch.autograd.grad(loss, [q])
        return loss.item()

    def filtered(self, made: Tensor, unsafe: Tensor) -> Tensor:
        """Safe latent diffusion without the empty text, its momentum kept from step to step, its warm-up in steps of the search."""
        sld, before = self.asked["filter"], self.momentum
        share = torch.where(made - unsafe >= sld["threshold"], 0, ((made - unsafe).abs() * sld["scale"]).clamp(max=1))
        safety = unsafe * share + sld["momentum"] * before
        self.momentum = (sld["beta"] * before + (1 - sld["beta"]) * safety).detach()
        self.steps += 1
        return sld["strength"] * (made - (safety if self.steps > sld["warmup"] else 0))

    def prompted(self, found: list[int], stage: int, drop_end: bool) -> tuple[Prompt, float]:
        ids = inserted(self.prompt, found, self.where)
        text = self.model.tokenizer.decode([n for n in ids if not (drop_end and n == self.model.tokenizer.eos_token_id)])
        by = "text" if self.asked["mode"] == "faithful" else "ids"
        same = self.model.tokenizer(text, add_special_tokens=False).input_ids == ids
        return self.row._replace(text=text, stage=stage, ids=tuple(ids), by=by), float(same)


def sequential(model: Model, first: Model, row: Prompt, stream: Any, draw: Any, judge: Any, asked: dict[str, Any]) -> Prompts:
    """Timesteps one after the other, up to the first picture that shows the concept."""

    def won(row: Prompt) -> bool:
        return asked["stop_early"] and bool(judge(draw(model, Prompts([row]), batch=1), [row])[1][0])

    rows, log, draws = [row], [], stream(row)
    if won(row):
        return Prompts(rows)
    step = Step(model, first, row, draws, asked)
    x0 = target(first, row, draw, judge, asked)[1].mean * first.vae.config.scaling_factor
    descent = torch.optim.Adam([step.variable], lr=asked["lr"], weight_decay=asked["weight_decay"])
    share = 1000 // asked["timesteps"]
    for stage, t in enumerate(range(share // 2, share * asked["timesteps"], share), 1):
        draws, spent = stream(row) if asked["mode"] == "faithful" else draws, 0.0
        for _ in range(asked["iterations"]):
            spent += step.gradient(x0, t, draws.noise(*x0.shape[1:])[None])
            descent.step()
        made, same = step.prompted(step.found(), stage, True)
        log.append({"unit": row.unit, "stage": stage, "t": t, "loss": spent / asked["iterations"], "same": same})
        rows.append(made)
        if won(made):
            break
    return Prompts(rows, log=log)


def at_random(model: Model, first: Model, row: Prompt, stream: Any, draw: Any, judge: Any, asked: dict[str, Any]) -> Prompts:
    """Random timesteps; the text whose picture is most like the target."""
    draws, best, log, rows = stream(row), -2.0, [], [row]
    step, like = Step(model, first, row, draws, asked), clip.load(asked["clip_model"])
    picture, posterior = target(first, row, draw, judge, asked)
    size = first.unet.config.sample_size
    shape = (first.unet.config.in_channels, size, size)
    x0 = (posterior.mean + posterior.std * draws.noise(*shape)) * first.vae.config.scaling_factor
    descent = torch.optim.AdamW([step.variable], lr=asked["lr"], weight_decay=asked["weight_decay"])
    for n in range(asked["steps"]):
        found, t = step.found(), int(draws.integers(1000, 1))
        loss = step.gradient(x0, t, draws.noise(*shape)[None])
        descent.step()
        if n % asked["every"] == 0:
            stage = n // asked["every"] + 1
            made, same = step.prompted(found, stage, False)
            pixels = draw(model, Prompts([made._replace(seed=row.seed + stage - 1)]), batch=1)
            value = torch.cosine_similarity(clip.images(like, picture), clip.images(like, pixels)).item()
            log.append({"unit": row.unit, "stage": stage, "t": t, "loss": loss, "same": same, "similarity": value})
            if value > best:
                best, rows = value, [made._replace(seed=row.seed + more) for more in range(asked["pictures"])]
    return Prompts(rows, log=log)
