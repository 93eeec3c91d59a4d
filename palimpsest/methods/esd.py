"""Erasing Concepts from Diffusion Models (ESD). Gandikota, Materzynska, Fiotto-Kaufman, Bau. ICCV 2023. arXiv 2303.07345.

Equation 6: the student is trained so that with the concept's text it predicts what steers the original away from it,

    eps_theta(x_t, c, t) <- eps(x_t, from, t) - eta [eps(x_t, c, t) - eps(x_t, "", t)].

Official code: rohitgandikota/erasing. `form: 2023` is `train-scripts/train-esd.py` @a2189e9, `2025` is `esd_sd.py` @25613d2 and
`alt` is `alt_esd_diffusers.py` @25613d2; they differ in the target and in which model draws x_t (table `FORMS`). Settings default to those
of 2023; 2025 and alt have eta 2, 200 steps and lr 5e-5 and 2e-5.
Differs from the official code: the label t is the level of x_t itself (`latent_alignment: exact`); `legacy` is the official rule, whose
label is 39 to 58 levels noisier in 2023 and 19 in alt (`stop`), if the base's sampler is DDIM. 2025 took PNDM (a base's `sampler: pndm`),
1024 pixels and bfloat16 weights. `erase_from` (2025, alt), alt's and 2023's smaller sets of layers are not offered; x-strict is of 2025.
All draws are made beforehand, so that the x_t of many steps of 2025, which the teacher draws, come in one batch (`ahead`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest import edits
from palimpsest.data import Concept, Images
from palimpsest.diffusion import encode, legacy_stop, noise, predict, scheduled
from palimpsest.edits import Erasure
from palimpsest.optimise import descend, foreseen
from palimpsest.partial import partly
from palimpsest.types import Count, Mix, Model, Positive

NEEDS = ("cross-attention",)  # of families/: without it not defined


class Form(NamedTuple):
    """What the three official programs do differently."""

    start: Literal["null", "concept"]  # where the target starts from
    drawn_by: Literal["student", "teacher"]
    spared: int  # this many steps at either end of the schedule are none that x_t stops at


FORMS = {
    "2023": Form("null", "student", 0),
    "2025": Form("concept", "teacher", 0),
    "alt": Form("null", "student", 1),
}


class Turn(NamedTuple):
    """Every random draw of one step, each field "b" but the last."""

    text: Tensor  # number of the text
    until: Tensor  # step of the schedule before which x_t stops
    t: Tensor  # the level that it is said to have
    noise: torch.Generator  # as it stands where x_t's noise is drawn


def where(variant: str, form: str) -> str:
    """Names of the trained parameters, as a glob."""
    if variant.startswith("x"):
        return "unet.*attn2.to_[kv].weight" if variant == "x-strict" else "unet.*attn2.*"
    if form == "2023":
        return "unet.*" if variant == "full" else "unet.* !*attn2* !*time_embedding* !*conv_norm_out* !*conv_out*"
    return "unet.* !*norm*" if variant == "full" else "unet.* !*norm* !*attn2*"


def target(concept: Tensor, null: Tensor, start: Tensor, eta: float) -> Mix:
    """The right hand side of Equation 6 as a mix of the teacher's predictions."""
    return [(start, 1.0), (concept, -eta), (null, eta)]


def stop(form: str, alignment: str, steps: int, draws: torch.Generator) -> tuple[int, int | None]:
    """The step of the schedule before which x_t stops, and the level t in [0, 1000) that it is said to have; None is its own.

    legacy, 2023: `legacy_stop`. legacy, alt: t counts from 1000 where the schedule counts from its first level.
    """

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=draws))

    if alignment == "legacy" and form == "2023":
        until, low, high = (int(each) for each in legacy_stop(torch.tensor(drawn(0, steps)), steps))
        return until, drawn(low, high)
    until = drawn(FORMS[form].spared, steps - FORMS[form].spared)
    return until, 1000 - until * 1000 // steps if alignment == "legacy" and form == "alt" else None


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    form: Literal["2023", "2025", "alt"] = "2023",
    variant: Literal["x", "x-strict", "u", "full"] = "x",
    texts: Literal["words", "train"] = "words",
    eta: float = 1.0,
    steps: int = 1000,
    lr: Positive = 1e-5,
    batch: Count = 1,
    sampler_steps: Count = 50,
    guidance: float = 3.0,
    latent_alignment: Literal["exact", "legacy"] = "exact",
    ahead: Count = 8,
) -> Erasure:
    """Fine-tune the UNet away from the concept's words, one of them drawn for each row and step.

    Args:
        texts: what is erased: the concept's words, or its texts to train on.
        eta: strength of the steering; with `form: 2025` the target starts from the concept and eta 2 equals eta 1 of 2023.
        sampler_steps: length of the schedule of which x_t is a part.
        ahead: steps whose x_t and targets are made together where the teacher draws (2025); no matter of results but of rounding.

    Raises:
        ValueError: the schedule has no step at which x_t may stop, or the concept has no such texts.
    """
    rules, first = FORMS[form], int(form == "2023" and latent_alignment == "legacy")  # its schedule begins at the second step
    least = 2 * rules.spared + first + 1
    if sampler_steps < least:
        named = f"form {form}, latent_alignment {latent_alignment}"
        raise ValueError(f"esd: sampler_steps {sampler_steps} leaves {named} no step to stop at; make it {least} or more")
    ahead = ahead if rules.drawn_by == "teacher" else 1  # the student that draws x_t is another after every step
    draws = torch.Generator().manual_seed(seed)
    said, null = encode(model, concept.erased(texts, "esd")), encode(model, [""])
    levels = scheduled(model, sampler_steps).timesteps

    def drawn() -> Turn:
        text = torch.randint(len(said), (batch,), generator=draws)
        until, label = stop(form, latent_alignment, sampler_steps, draws)
        t = levels[until] if label is None else torch.tensor(label)
        turn = Turn(text, torch.tensor(until).expand(batch), t.expand(batch), draws.clone_state())
        noise(model, draws, batch)
        return turn

    turns = [drawn() for _ in range(steps)]

    with edits.dense(model, where(variant, form)) as edit:

        def answer(some: Sequence[Turn]) -> list[tuple[Tensor, ...]]:
            """x_t, its level, its text and its target, for each of these steps."""
            rows, until, t = (torch.cat(field) for field in list(zip(*some, strict=True))[:3])
            x, text = torch.cat([noise(model, turn.noise.clone_state(), batch) for turn in some]), said[rows]
            with edit.off() if rules.drawn_by == "teacher" else torch.no_grad():
                x = partly(model, x, until, text, null, steps=sampler_steps, start=first, guidance=guidance)
            with edit.off():
                goal = predict(model, x, t, target(text, null, text if rules.start == "concept" else null, eta))
            return list(zip(*(part.split(batch) for part in (x, t, text, goal)), strict=True))

        seen = foreseen(turns, ahead, answer)

        def loss(step: int) -> Tensor:
            x, t, text, goal = seen(step)
            return (predict(model, x, t, [(text, 1.0)]) - goal).pow(2).mean()

        log = descend(loss, edit.parameters, steps=steps, lr=lr, optimiser="adam", title="esd")
        return edit.erasure(log)
