"""Erasing Concepts from Diffusion Models (ESD). Gandikota, Materzynska, Fiotto-Kaufman, Bau. ICCV 2023. arXiv 2303.07345.

Equation 6: the student is trained so that with the concept's text it predicts what steers the original away from it,

    eps_theta(x_t, c, t) <- eps(x_t, from, t) - eta [eps(x_t, c, t) - eps(x_t, "", t)].

Official code: rohitgandikota/erasing. `form: 2023` is `train-scripts/train-esd.py` @a2189e9, `2025` is `esd_sd.py` @25613d2 and
`alt` is `alt_esd_diffusers.py` @25613d2; they differ in the target and in which model draws x_t (table `FORMS`).
Differs from the official code: the label t is the level of x_t itself (`latent_alignment: exact`); `legacy` gives the label of 2023,
39 to 58 levels noisier. The sampler is DDIM for every form; 2025 used PNDM.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from palimpsest import edits
from palimpsest.data import Concept, Images
from palimpsest.diffusion import denoise, encode, guided, noise, predict
from palimpsest.edits import Erasure
from palimpsest.optimise import descend
from palimpsest.types import Mix, Model


class Form(NamedTuple):
    """What the three official programs do differently."""

    start: Literal["null", "concept"]  # where the target starts from
    drawn_by: Literal["student", "teacher"]
    stops: tuple[int, int]  # x_t stops at a step in [first, sampler_steps - spare)
    norms: bool  # whether variants u and full train normalisation layers
    dropped: int  # legacy: steps left out at the noisy end
    ahead: tuple[int, int]  # legacy: how much noisier the label is than x_t, as a range


FORMS = {
    "2023": Form("null", "student", (0, 0), True, 1, (39, 59)),
    "2025": Form("concept", "teacher", (0, 0), False, 0, (0, 1)),
    "alt": Form("null", "student", (1, 1), False, 0, (19, 20)),
}


def where(variant: str, form: str) -> str:
    """Names of the trained parameters, as a glob."""
    if variant.startswith("x"):
        return "unet.*attn2.to_[kv].weight" if variant == "x-strict" else "unet.*attn2.*"
    if form == "2023":
        return "unet.*" if variant == "full" else "unet.* !*attn2* !*time_embedding* !*conv_norm_out* !*conv_out*"
    return "unet.* !*norm*" if variant == "full" else "unet.* !*norm* !*attn2*"


def target(concept: torch.Tensor, null: torch.Tensor, start: torch.Tensor, eta: float) -> Mix:
    """The right hand side of Equation 6 as a mix of the teacher's predictions."""
    return [(start, 1.0), (concept, -eta), (null, eta)]


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
    lr: float = 1e-5,
    batch: int = 1,
    sampler_steps: int = 50,
    guidance: float = 3.0,
    latent_alignment: Literal["exact", "legacy"] = "exact",
) -> Erasure:
    """Fine-tune the UNet away from the concept's words, one of them drawn for each row and step.

    Args:
        texts: what is erased: the concept's words, or its texts to train on.
        eta: strength of the steering; with `form: 2025` the target starts from the concept and eta 2 equals eta 1 of 2023.
        sampler_steps: length of the schedule of which x_t is a part.
    """
    rules = FORMS[form]
    legacy = latent_alignment == "legacy"
    draws = torch.Generator().manual_seed(seed)
    said, null = encode(model, list(concept.words if texts == "words" else concept.texts["train"])), encode(model, [""])

    with edits.dense(model, where(variant, form)) as edit:

        def drawn(text: torch.Tensor) -> tuple[torch.Tensor, int]:
            """x_t, partly denoised under the text, and the level that it is said to have."""
            first, spare = rules.stops
            until = int(torch.randint(first, sampler_steps - spare, (1,), generator=draws))
            start = min(rules.dropped, until) if legacy else 0
            by = edit.off() if rules.drawn_by == "teacher" else torch.no_grad()
            with by:
                x, t = denoise(model, noise(model, draws, batch), guided(text, null, guidance), sampler_steps, until, start)
            return x, min(t + int(torch.randint(*rules.ahead, (1,), generator=draws)), 999) if legacy else t

        def loss(step: int) -> torch.Tensor:
            text = said[torch.randint(len(said), (batch,), generator=draws)]
            x, t = drawn(text)
            with edit.off():
                goal = predict(model, x, t, target(text, null, text if rules.start == "concept" else null, eta))
            return (predict(model, x, t, [(text, 1.0)]) - goal).pow(2).mean()

        log = descend(loss, edit.parameters, steps=steps, lr=lr, optimiser="adam", generator=draws, title="esd")
        return edit.erasure(log)
