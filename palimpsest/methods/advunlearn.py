"""Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models (AdvUnlearn). Zhang, Chen, Jia, Zhang,
Fan, Liu, Hong, Ding, Liu. NeurIPS 2024. arXiv 2405.15234.

ESD on the text encoder E, trained against a soft word d right behind the start token that brings the concept c back:

    attack: d <- argmin || eps(x_t, t, E(d c)) - e_c ||^2
    defend: E <- argmin || eps(x_t, t, E(d c)) - [e_0 - eta (e_c - e_0)] ||^2 + gamma || eps(x_r, t, E(c_r)) - e_r ||^2,

where e_c, e_0 and e_r are what the original says under c, under "" and under a text to keep, c_r.

Official code: OPTML-Group/AdvUnlearn @9d23124, `train-scripts/AdvUnlearn.py`; defaults are those of the README's command (the bare program
names a retain list that it does not know; its defaults are `retain_form: iter`, `attack_init: latest`, gamma 1).
Differs from the official code: t is the level of x_t itself (`latent_alignment: exact`; `legacy` is the official rule); d stands before all
tokens of the text (`attack_text: whole`; the official `words` takes words for tokens and so cuts a word of two); all draws are made
beforehand, so that the x_t of many attack steps come in one batch (of `ahead` training steps, where the UNet stays as it is); the texts to
keep are the concept's own and not a table of 243. `attack_init: zero` is ours. Not offered: `adv_prompt_update_step`, `retain_step` but 1,
parts of the encoder, selfattn, notime, xlayer and selflayer of the UNet, other places of d (`attack_type`, `attack_embd_type`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest import edits
from palimpsest.data import Concept, Images
from palimpsest.diffusion import encode, legacy_stop, noise, predict, predictions, scheduled
from palimpsest.edits import Erasure
from palimpsest.optimise import descend, foreseen
from palimpsest.partial import partly
from palimpsest.types import Count, Latents, Model, NotNegative, Positive

NEEDS = ("one encoder",)  # of families/: without it not defined

WHERE = {
    "text_encoder": "text_encoder.* !*embedding*",
    "xattn": "unet.*attn2.*",
    "noxattn": "unet.* !*attn2* !*time_embedding* !*conv_norm_out* !*conv_out*",
    "full": "unet.*",
}


class Rows(NamedTuple):
    """x_t to be drawn, each field "r"."""

    text: Tensor  # number of the text that it is drawn under
    until: Tensor  # step of the schedule before which it stops, in [0, sampler_steps]
    t: Tensor  # the level that it is said to have
    seed: Tensor


class Turn(NamedTuple):
    """Every random draw of one step of descent."""

    word: str  # the text to erase
    kept: list[str]
    attacks: int  # steps of the attack
    start: Tensor  # token ids that the attack starts from, "k"
    erased: int  # rows that erase
    weight: Tensor  # of the rows that erase and of those that keep, in the loss
    rows: Rows  # `batch` for each step of the attack, then those that erase, then one for each text to keep


def batches(count: int, size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Numbers below `count`, `size` at a time without replacement; begun again when fewer are left. Size 0 gives none, for ever."""
    while True:
        yield from torch.randperm(count, generator=draws)[: count // max(size, 1) * size].split(size)


def stops(levels: Tensor, count: int, alignment: str, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where `count` draws of x_t stop in the schedule of these levels, and the level that each is said to have."""
    steps = len(levels)
    stop = torch.randint(steps, (count,), generator=draws)
    if alignment == "exact":
        return stop, levels[stop]
    until, low, high = legacy_stop(stop, steps)
    return until, low + (torch.rand(count, generator=draws) * (high - low)).long()


def attack(
    loss: Callable[[int, Tensor], Tensor], start: Tensor, *, steps: int, lr: float, method: str, gradients: str, last_update: str
) -> Tensor:
    """A soft word "k d" that lowers loss(step, word), by Adam from `start`. Plain on purpose: it runs inside a step of `descend`."""
    word = start.detach().clone().requires_grad_()
    word.grad, before = torch.zeros_like(word), word.detach()
    descent = torch.optim.Adam([word], lr=lr)
    for step in range(steps):
        before = word.detach().clone()
        (gradient,) = torch.autograd.grad(loss(step, word), word)  # the weights gather none
        word.grad = gradient + word.grad if gradients == "accumulated" else gradient
        if method == "fast_at":
            word.grad.sign_()
        descent.step()
    return before if last_update == "dropped" else word.detach()


def behind(model: Model, text: str, word: Tensor, attack_text: str) -> tuple[str, dict[str, Tensor]]:
    """A text behind a soft word "k d", and the vectors that it names; by `words` without the k tokens behind as many as it has words."""
    if attack_text == "whole":
        return "<adv> " + text, {"adv": word}
    ids, count = model.tokenizer(text, add_special_tokens=False).input_ids[: model.tokenizer.model_max_length - 2], len(text.split())
    left = ids[:count] + ids[count + len(word) :]
    return "<adv> <left>", {"adv": word, "left": model.text_encoder.get_input_embeddings().weight[left]}


def texts_of(concept: Concept, texts: str, retain_batch: int) -> tuple[list[str], list[str]]:
    """The texts to erase and those to keep.

    Raises:
        ValueError: the concept lacks them.
    """
    said = concept.erased(texts, "advunlearn")
    kept = list(concept.texts.get("retain", ())) if retain_batch else []
    if len(kept) < retain_batch:
        raise ValueError(
            f"advunlearn: retain_batch is {retain_batch}, but {concept.name} has {len(kept)} texts under `retain`; add texts or lower it"
        )
    return said, kept


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    train: Literal["text_encoder", "xattn", "noxattn", "full"] = "text_encoder",
    texts: Literal["words", "train"] = "words",
    eta: float = 1.0,
    steps: int = 1000,
    lr: Positive = 1e-5,
    batch: Count = 1,
    warmup: int = 200,
    attack_steps: int = 30,
    attack_lr: Positive = 1e-3,
    attack_words: Count = 1,
    attack_method: Literal["pgd", "fast_at"] = "pgd",
    attack_init: Literal["random", "latest", "zero"] = "random",
    attack_gradients: Literal["accumulated", "fresh"] = "accumulated",
    attack_last_update: Literal["dropped", "used"] = "dropped",
    attack_text: Literal["whole", "words"] = "whole",
    gamma: NotNegative = 0.3,
    retain_batch: int = 5,
    retain_form: Literal["reg", "iter"] = "reg",
    sampler_steps: Count = 50,
    guidance: float = 3.0,
    latent_alignment: Literal["exact", "legacy"] = "exact",
    ahead: Count = 2,
) -> Erasure:
    """Fine-tune the text encoder, or the UNet, against soft words that bring the concept back.

    Args:
        train: what is trained: all layers of the text encoder and its final norm, or these parts of the UNet.
        texts: what is erased, one of them a step: the concept's words, or its training texts.
        batch: x_t's of a step, to attack and to erase; 1 is the official.
        warmup: steps without attack. attack_steps: 0 attacks never. attack_words: k, tokens that the soft word takes.
        attack_method: fast_at takes the signs of the gradients.
        attack_init: random tokens; the word of the step before; zeros.
        attack_gradients: the official attack never sets its gradient to zero. attack_last_update: it returns its word before the last one.
        attack_text: what stands behind the soft word: the whole text, or what the official code leaves of it (`behind`).
        gamma: weight of the texts to keep; 0.3 for nudity, 0.5 for objects and styles.
        retain_form: keep inside the same step (reg), or in one of its own behind each (iter, where gamma is 1).
        ahead: training steps whose x_t are drawn together while the text encoder is trained; no matter of results but of rounding.
    """
    if latent_alignment == "legacy" and sampler_steps < 2:
        raise ValueError(f"advunlearn: sampler_steps {sampler_steps} leaves latent_alignment legacy no step to stop at; make it 2 or more")
    said, others = texts_of(concept, texts, retain_batch)
    draws = torch.Generator().manual_seed(seed)
    originals, null = encode(model, [*said, *others]), encode(model, [""])
    keeping, levels = batches(len(others), retain_batch, draws), scheduled(model, sampler_steps).timesteps
    apart = retain_form == "iter" and retain_batch > 0  # every second step of descent keeps, and only keeps
    ahead = ahead if train == "text_encoder" else 1  # elsewhere the UNet that draws x_t is another after every step
    table = model.text_encoder.get_input_embeddings().weight
    latest = torch.zeros_like(table[:attack_words])

    def drawn(number: int) -> Turn:
        erased = 0 if apart and number % 2 else batch
        attacks = attack_steps if erased and number // (1 + apart) >= warmup else 0
        word = int(torch.randint(len(said), (1,), generator=draws))
        kept = torch.zeros(0, dtype=torch.long) if apart and erased else next(keeping)
        copies = torch.tensor([batch] * attacks + [erased + len(kept)])  # all that a step learns from has one t
        until, t = (field.repeat_interleave(copies) for field in stops(levels, attacks + 1, latent_alignment, draws))
        text = torch.cat([torch.full((attacks * batch + erased,), word), len(said) + kept])
        start = torch.randint(len(model.tokenizer), (attack_words,), generator=draws)
        weight = torch.tensor([1 / batch] * erased + [(gamma if erased else 1.0) / max(len(kept), 1)] * len(kept))
        seeds = torch.randint(2**63 - 1, t.shape, generator=draws)
        return Turn(said[word], [others[n] for n in kept.tolist()], attacks, start, erased, weight, Rows(text, until, t, seeds))

    turns = [drawn(number) for number in range(steps * (1 + apart))]

    with edits.dense(model, WHERE[train]) as edit:

        def answer(some: Sequence[Turn]) -> list[tuple[Latents, ...]]:
            """x_t, eps_0 under its text and under "", for each of these turns. Where the UNet is trained, the student draws x_t."""
            rows = [turn.rows for turn in some]
            every = Rows(*(torch.cat(field) for field in zip(*rows, strict=True)))
            eps = noise(model, [torch.Generator().manual_seed(seed) for seed in every.seed.tolist()])
            text, first = originals[every.text], int(latent_alignment == "legacy")
            x = partly(model, eps, every.until, text, null, steps=sampler_steps, start=first, guidance=guidance)
            with edit.off():
                e_c, e_null = predictions(model, x, every.t, [text, null])
            return list(zip(*(part.split([len(row.t) for row in rows]) for part in (x, e_c, e_null)), strict=True))

        seen = foreseen(turns, ahead, answer)

        def attacked(turn: Turn, number: int, x: Latents, e_c: Latents) -> Tensor:
            """The soft word under which the student says most nearly what the original says of the concept."""

            def loss(step: int, word: Tensor) -> Tensor:
                at = slice(step * batch, (step + 1) * batch)
                text, words = behind(model, turn.word, word, attack_text)
                shown = encode(model, [text], words)
                return (predict(model, x[at], turn.rows.t[at], [(shown, 1.0)]) - e_c[at]).pow(2).mean()

            goes_on = attack_init == "latest" and number // (1 + apart) > warmup
            start = latest if goes_on else table[turn.start] * (attack_init != "zero")
            how = {"method": attack_method, "gradients": attack_gradients, "last_update": attack_last_update}
            return latest.copy_(attack(loss, start, steps=turn.attacks, lr=attack_lr, **how))

        def loss(number: int) -> Tensor:
            turn, (x, e_c, e_null) = turns[number], seen(number)
            text, words = behind(model, turn.word, attacked(turn, number, x, e_c), attack_text) if turn.attacks else (turn.word, {})
            x, e_c, e_null, t = (part[turn.attacks * batch :] for part in (x, e_c, e_null, turn.rows.t))
            n = turn.erased
            goal = torch.cat([e_null[:n] - eta * (e_c[:n] - e_null[:n]), e_c[n:]])
            guess = predict(model, x, t, [(encode(model, [text] * n + turn.kept, words), 1.0)])
            return ((guess - goal).pow(2).mean((1, 2, 3)) * turn.weight.to(x)).sum()

        # no gradient ever reaches `latest`; it rides along so that a checkpoint holds it
        log = descend(loss, [*edit.parameters, latest], steps=len(turns), lr=lr, optimiser="adam", title="advunlearn")
        return edit.erasure(log)
