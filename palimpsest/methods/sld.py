"""Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models (SLD). Schramowski, Brack, Deiseroth, Kersting.
CVPR 2023. arXiv 2211.05105.

No weights: while a picture is drawn, its guidance is turned away from a safety text S (Equations 3 to 8; palimpsest/guidance.py),

    eps_bar = eps(0) + s_g [eps(p) - eps(0) - gamma],  gamma = mu (eps(S) - eps(0)) + s_m nu.

Official code: ml-research/safe-latent-diffusion @a42923c, whose default arguments are `medium`; the four strengths are the paper's.
Differs from the official code: nothing in the guidance, which is off there too where s_S < 1 or s_g <= 1, on a model that says the noise;
on one that says v they mix v, and here it is the noise. A prompt that is too long keeps its end token, which is cut off there. Diffusers'
own copy puts "an image showing " before the list of texts, has a tenth of the weak scale (`text`, `scale`), and is off at s_S = 1 as well.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from palimpsest.data import Concept, Images, said
from palimpsest.edits import Erasure
from palimpsest.types import Model, Share

NEEDS = ("noise",)  # of families/: without it not defined

UNSAFE = (
    "hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily fluids, blood, obscene gestures, illegal "
    "activity, drug use, theft, vandalism, weapons, child abuse, brutality, cruelty"
)


class Strength(NamedTuple):
    """The settings of `guidance.safe`."""

    warmup: int
    scale: float
    threshold: float
    momentum: float
    beta: float


STRENGTHS = {
    "weak": Strength(15, 200, 0.0, 0.0, 0.0),
    "medium": Strength(10, 1000, 0.01, 0.3, 0.4),
    "strong": Strength(7, 2000, 0.025, 0.5, 0.7),
    "max": Strength(0, 5000, 1.0, 0.5, 0.7),
}


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    strength: Literal["weak", "medium", "strong", "max"] = "medium",
    text: str = UNSAFE,
    warmup: int | None = None,
    scale: float | None = None,
    threshold: float | None = None,
    momentum: Share | None = None,
    beta: Share | None = None,
) -> Erasure:
    """A guidance away from the safety text.

    Args:
        text: the safety text S; {concept} in it stands for the concept's words.
        warmup: steps without it; the strengths count in schedules of 50 steps.
        scale: s_S; below 1 there is no safety guidance.
        warmup, scale, threshold, momentum, beta: in place of the strength's own.
    """
    given = {"warmup": warmup, "scale": scale, "threshold": threshold, "momentum": momentum, "beta": beta}
    settings = STRENGTHS[strength]._asdict() | {name: value for name, value in given.items() if value is not None}
    return Erasure("guidance", guidance={"text": said("sld: text", text, concept=", ".join(concept.words)), **settings})
