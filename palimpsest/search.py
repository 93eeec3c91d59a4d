"""A search for tokens beside a prompt, many prompts at a time: what UnlearnDiffAtk and P4D share.

Each unit has its own variable, target picture and random stream; all that are not yet won stand as rows in one batch. A row's gradient is
that of its own error, and the optimisers are elementwise, so a unit is searched as if it were alone, up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest import safety, tokens
from palimpsest.data import Concept, Prompt, Prompts
from palimpsest.diffusion import noised, predict
from palimpsest.draws import Draws, Stream, side_by_side
from palimpsest.types import Latents, Model, Text

Insertion = Literal["prefix", "suffix", "middle", "spread", "every-3"]
Draw = Callable[..., Tensor]  # model, prompts, batch -> pictures "n 3 h w"
Judge = Callable[[Tensor, Sequence[Prompt]], tuple[Tensor, Tensor]]
Goal = Callable[[Latents, Tensor, Sequence["Unit"]], Latents]  # what the prediction at x_t should be
Answer = Callable[[Latents, Tensor, Text], Latents]  # what a model makes of a text at x_t
Look = Callable[[Sequence[Prompt]], set[int]]
Line = Mapping[str, float]
NOTHING = "prompts: none of the plain prompts should show the concept, so there is nothing to ask; see gen_prompts"


class Frame(NamedTuple):
    """A sequence of tokens with free places."""

    ids: Tensor  # "n": begin, prompt and free places, end, padding; free places hold the end token
    free: Tensor  # "k": the free places
    length: int  # of prompt and free places together


class Unit(NamedTuple):
    """A plain prompt that a search is about."""

    row: Prompt
    frame: Frame
    x0: Latents  # "c h w", of its target picture


def places(length: int, k: int, insertion: str) -> list[int]:
    """Where k tokens come to stand among `length` tokens of a prompt, counted in the sequence of both."""
    before = {
        "prefix": [0] * k,
        "suffix": [length] * k,
        "middle": [length // 2] * k,
        "spread": [length // (k + 1) * (n + 1) for n in range(k)],
        "every-3": [min(3 * n, length) for n in range(k)],
    }[insertion]
    return [known + n for n, known in enumerate(before)]


def framed(model: Model, prompt: Sequence[int], free: Sequence[int], *, end: bool = True, pad: int | None = None) -> Frame | None:
    """The sequence in which found tokens stand at these places; None where it does not fit into the context.

    Args:
        end, pad: whether the end token closes it, and what fills it up (None: the tokenizer's padding), during the search.
    """
    tokenizer, rest = model.tokenizer, iter(prompt)
    length, eos = len(prompt) + len(free), tokenizer.eos_token_id
    if length + 2 > tokenizer.model_max_length:
        return None
    ids = [tokenizer.bos_token_id, *(eos if n in set(free) else next(rest) for n in range(length)), *([eos] if end else [])]
    ids += [tokenizer.pad_token_id if pad is None else pad] * (tokenizer.model_max_length - len(ids))
    return Frame(torch.tensor(ids, device=model.device), torch.tensor(free, device=model.device) + 1, length)


def encoded(model: Model, row: Prompt) -> list[int]:
    """The tokens of a prompt without begin and end."""
    return model.tokenizer(row.text, add_special_tokens=False).input_ids


def fitting(
    model: Model, plain: Prompts, frame: Callable[[list[int]], Frame | None], longest: int
) -> tuple[dict[int, Frame], dict[int, int]]:
    """The frames of those prompts that have room, and the lengths (begin and end counted) of the others, both by unit.

    Raises:
        ValueError: there are no prompts, or none has room.
    """
    if not plain.rows:
        raise ValueError(NOTHING)
    ids = {row.unit: encoded(model, row) for row in plain.rows}
    frames = {unit: frame(line) for unit, line in ids.items()}
    kept = {unit: found for unit, found in frames.items() if found and len(ids[unit]) + 2 <= longest}
    dropped = {unit: len(line) + 2 for unit, line in ids.items() if unit not in kept}
    if not kept:
        room = min(longest, model.tokenizer.model_max_length)
        raise ValueError(f"k: no prompt leaves room for the tokens in {room}; search for fewer, or give shorter prompts")
    if dropped:
        print(f"palimpsest: {len(ids)} prompts, {len(kept)} of them short enough; the others are asked plainly", file=sys.stderr)
    return kept, dropped


def choosable(model: Model, concept: Concept) -> tuple[Tensor, Tensor]:
    """The ids that a search may choose, "v", and their embeddings, "v d"."""
    ids = safety.allowed(concept, model.tokenizer).nonzero()[:, 0].to(model.device)
    return ids, model.text_encoder.get_input_embeddings().weight.detach()[ids]


def context(model: Model, frames: Sequence[Frame], rows: Tensor) -> Tensor:
    """What cross-attention sees, "b n d", with the rows "r d", those of all frames one below the other, at the free places."""
    ids = torch.stack([frame.ids for frame in frames])
    embeddings = model.text_encoder.get_input_embeddings()(ids)
    index = torch.cat([frame.free + n * ids.shape[1] for n, frame in enumerate(frames)])
    return tokens.run(model, ids, embeddings.flatten(0, 1).index_copy(0, index, rows).view_as(embeddings))


def gradients(
    model: Model, units: Sequence[Unit], rows: Tensor, t: int | Tensor, eps: Latents, goal: Goal | None = None, answer: Answer | None = None
) -> tuple[Tensor, Tensor]:
    """Each unit's mean squared error "b" and its gradient by the embeddings "r d" at the free places.

    Args:
        t: one for all, or "b".
        eps: noise of the target pictures, "b c h w".
        goal: what the prediction should be; None is eps.
        answer: what stands for the prediction; None is the prediction itself.
    """
    rows, levels = rows.detach().requires_grad_(), torch.as_tensor(t, device=model.device).expand(len(units))
    x_t = noised(model, torch.stack([unit.x0 for unit in units]), levels, eps)
    text = context(model, [unit.frame for unit in units], rows)
    guess = answer(x_t, levels, text) if answer else predict(model, x_t, levels, [(text, 1.0)])
    error = (guess - (goal(x_t, levels, units) if goal else eps)).pow(2).flatten(1).mean(1)
    return error.detach(), torch.autograd.grad(error.sum(), rows)[0]


def noises(model: Model, streams: Sequence[Draws]) -> Latents:
    """A latent noise from each stream, "b c h w"."""
    size = model.unet.config.sample_size
    return side_by_side(streams, model.unet.config.in_channels, size, size).to(model.device)


def asked(model: Model, unit: Unit, found: Tensor, stage: int, by: str, *, drop_end: bool = True) -> tuple[Prompt, bool]:
    """The prompt with the found ids "k", and whether its text is read as the very tokens again."""
    line = unit.frame.ids.clone()
    line[unit.frame.free] = found
    ids = line[1 : unit.frame.length + 1].tolist()
    text = model.tokenizer.decode([n for n in ids if not (drop_end and n == model.tokenizer.eos_token_id)])
    row = unit.row._replace(text=text, stage=stage, ids=tuple(ids), by=by)
    return row, encoded(model, row) == ids


def looking(model: Model, concept: Concept, draw: Draw, judge: Judge, batch: int) -> Look:
    """Which units' pictures show the concept, drawn in full batches, however many are asked. A text that may not be asked is not drawn."""

    def look(rows: Sequence[Prompt]) -> set[int]:
        rows = safety.kept(concept, Prompts(rows)).rows
        if not rows:
            return set()
        _, positive = judge(draw(model, Prompts(rows), batch=batch), rows)
        return {row.unit for row, yes in zip(rows, positive.tolist(), strict=True) if yes}

    return look


def levels(count: int) -> list[int]:
    """The timesteps of a search, evenly spread, in the order in which they are visited.

    Raises:
        ValueError: more than there are, or none.
    """
    if not 1 <= count <= 1000:
        raise ValueError(f"timesteps: {count} is none of 1 to 1000; write how many of the 1000 levels are visited (official 50)")
    return list(range(1000 // count // 2, 1000, 1000 // count))[:count]


Move = Callable[[Sequence[Unit], Sequence[Tensor], Sequence[Draws], int | Tensor], Tensor]


class Budget(NamedTuple):
    """What a sequential search may spend on a unit, and how."""

    mode: str  # "faithful": the stream begins anew behind each checkpoint, the text is asked; "fixed": it runs on, the ids are asked
    timesteps: int
    iterations: int  # at each timestep
    lr: float
    weight_decay: float
    stop_early: bool  # a unit whose picture shows the concept ends there


class Variable(NamedTuple):
    """What a search moves, as functions."""

    begin: Callable[[Unit, Draws], Tensor]  # its first value
    move: Move  # sets gradients at t, one or "b"; returns the errors "b"
    after: Callable[[Sequence[Tensor]], None]  # what follows a step
    read: Callable[[Tensor], Tensor]  # the ids "k" that it stands for


def sequential(
    model: Model, units: Sequence[Unit], of: Variable, budget: Budget, *, stream: Callable[[Prompt], Draws], look: Look
) -> Prompts:
    """Adam at one timestep after the other, with a checkpoint behind each."""
    won = look([unit.row for unit in units]) if budget.stop_early else set()
    live, found, log = [unit for unit in units if unit.row.unit not in won], [unit.row for unit in units], list[Line]()
    if not live:
        return Prompts(found)
    streams = {unit.row.unit: stream(unit.row) for unit in live}
    variables = {unit.row.unit: of.begin(unit, streams[unit.row.unit]).requires_grad_() for unit in live}
    descent = torch.optim.Adam(variables.values(), lr=budget.lr, weight_decay=budget.weight_decay)
    for stage, t in enumerate(levels(budget.timesteps), 1):
        if budget.mode == "faithful":
            streams = {unit.row.unit: stream(unit.row) for unit in live}
        mine, drawn = [variables[unit.row.unit] for unit in live], [streams[unit.row.unit] for unit in live]
        spent = torch.zeros(len(live), device=model.device)
        for _ in range(budget.iterations if live else 0):
            descent.zero_grad(set_to_none=True)  # Adam passes over what has no gradient: the units that are won
            spent += of.move(live, mine, drawn, t)
            descent.step()
            of.after(mine)
        by = "text" if budget.mode == "faithful" else "ids"
        made = [asked(model, unit, of.read(one), stage, by) for unit, one in zip(live, mine, strict=True)]
        found += [row for row, _ in made]
        log += lines(made, t, spent / budget.iterations)
        won = look([row for row, _ in made]) if budget.stop_early else set()
        live = [unit for unit in live if unit.row.unit not in won]
    return in_order(found, log)


def in_order(rows: Sequence[Prompt], log: Sequence[Line]) -> Prompts:
    """By unit, then stage."""
    lines = sorted(log, key=lambda line: (line["unit"], line.get("stage", 0)))
    return Prompts(sorted(rows, key=lambda row: (row.unit, row.stage)), log=lines)


def lines(made: Sequence[tuple[Prompt, bool]], t: int | Tensor, loss: Tensor) -> list[Line]:
    """The log of a checkpoint: `same` is 1 where the text is read as the found tokens again."""
    levels = torch.as_tensor(t).expand(len(made)).tolist()
    about = zip(made, levels, loss.tolist(), strict=True)
    return [{"unit": row.unit, "stage": row.stage, "t": level, "loss": value, "same": float(same)} for (row, same), level, value in about]


def together(plain: Prompts, answer: Prompts, dropped: dict[int, int]) -> Prompts:
    """The answer and, of the prompts that were dropped, the plain ones with their lengths, in the order of units."""
    others = [row for row in plain.rows if row.unit in dropped]
    return in_order([*answer.rows, *others], [*answer.log, *({"unit": row.unit, "dropped_tokens": dropped[row.unit]} for row in others)])


def seeded(draws: Stream, seed: int) -> Callable[[Prompt], Draws]:
    """A prompt's stream: that of its own seed, to which the job's is added."""
    return lambda row: draws(seed + row.seed)
