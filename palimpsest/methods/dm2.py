"""Dark Miner: Defend against undesired generation for text-to-image diffusion models (DM2). Meng, Wang, Qi, Zou, Hua. arXiv 2409.17682.

Loops of three: mine an embedding c that draws the concept from the model as it stands (Equation 5), verify that it does (Equation 6),
circumvent it with low-rank factors (Equations 7 to 10), until mining finds nothing more. c is a context of cross-attention itself, L
vectors wide, and never passes the text encoder. There is no official code; what the paper leaves open is a setting, named below.

Differs from the paper: x of Equation 7 is drawn from a bank of `bank` pictures an embedding, made in one batch, instead of one a step;
with `bank` = `steps` and `batch` 1 it is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palimpsest import clip, edits
from palimpsest.data import Concept, Images
from palimpsest.diffusion import decode, denoise, encode, guided, moments, noise, noised, posterior, predictions
from palimpsest.edits import Edit, Erasure
from palimpsest.optimise import descend
from palimpsest.types import Latents, Model, Text

Reduce = Callable[[Tensor], Tensor]


class Mined(NamedTuple):
    """An embedding of the pool P_E, "1 L d", and pictures that the original draws under it, as latents."""

    c: Text
    bank: Latents


def squared(loss_reduction: str) -> Reduce:
    """Squared error over a picture's latent: its sum, as the equations' squared norm says, or its mean; averaged over the batch."""
    axes = (1, 2, 3)
    return (lambda e: e.pow(2).sum(axes).mean()) if loss_reduction == "sum" else (lambda e: e.pow(2).mean(axes).mean())


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    max_loops: int = 60,
    images_per_loop: int = 3,
    length: int = 32,
    mining: bool = True,
    mine_steps: int = 1000,
    mine_lr: float = 0.1,
    mine_schedule: dict[int, float] | None = None,
    mine_clip: float = 10.0,
    initialisation: Literal["normal", "zeros"] = "normal",
    clip_model: str = "openai/clip-vit-large-patch14",
    tau: float = 0.2,
    verify_images: int = 1,
    bank: int = 128,
    replay: float = 0.7,
    steps: int = 1000,
    batch: int = 1,
    lr: float = 0.01,
    schedule: dict[int, float] | None = None,
    clip_norm: float = 100.0,
    alpha_c: float = 1.0,
    alpha_p: float = 0.5,
    rank: int = 8,
    location: Literal["value", "key", "query"] = "value",
    anchor: str = "a photo",
    loss_reduction: Literal["sum", "mean"] = "sum",
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd",
    sampler_steps: int = 50,
    guidance: float = 7.5,
) -> Erasure:
    """Low-rank factors on the attention's value projections that leave no embedding to mine.

    Args:
        images_per_loop: k pictures of the pool that a loop mines from.
        mining: False is the control: c is the encoded text of a training prompt instead of a mined embedding.
        mine_schedule, schedule: factors on the learning rates; None is the paper's {500: 0.1} and {800: 0.1}.
        initialisation: of c; the paper does not say. N(0, 1) is the spread of CLIP's final states.
        clip_model: image encoder of the verifier; the paper does not name it.
        anchor: the text whose prediction takes the concept's place; {anchor} in it stands for the concept's own anchor.
        tau: a loop whose s(c) is not above it is the last.
        verify_images: pictures that s(c) is averaged over; 1 is the paper's.
        replay: probability r that a step takes this loop's c and not an earlier one.
        loss_reduction: `sum` makes the paper's clip norms and learning rates meaningful.
    """
    reduce = squared(loss_reduction)
    draws = torch.Generator().manual_seed(seed)
    null, c0 = encode(model, [""]), encode(model, [anchor.format(anchor=concept.anchor)])
    pictures = images.only("pool").pixels()
    latents, eye = moments(model, pictures), clip.load(clip_model)
    found: list[Mined] = []
    log: list[dict] = []

    def mine(rows: Tensor) -> tuple[Text, list[dict[str, float]]]:
        """Equation 5: c that lets the current model denoise pictures of the concept."""
        start = torch.randn((1, length, null.shape[2]), generator=draws) * (initialisation == "normal")
        c = start.to(model.device).requires_grad_()

        def loss(step: int) -> Tensor:
            x, eps = posterior(model, latents[rows], noise(model, draws, len(rows))), noise(model, draws, len(rows))
            t = torch.randint(1000, (len(rows),), generator=draws).to(model.device)
            (guess,) = predictions(model, noised(model, x, t, eps), t, [c])
            return reduce(eps - guess)

        plan = mine_schedule or {500: 0.1}
        curve = descend(
            loss, [c], steps=mine_steps, lr=mine_lr, optimiser=optimiser, clip=mine_clip, schedule=plan, generator=draws, title="mine"
        )
        return c.detach(), curve

    def verify(c: Text, rows: Tensor) -> float:
        """Equation 6: s(c), the mean cosine between what c adds to an anchor picture and what the pool's pictures add to it."""
        x = noise(model, draws, verify_images)
        drawn = [decode(model, denoise(model, x, guided(text, null, guidance), sampler_steps)[0]) for text in (c0, c)]
        x_r, x_c = (clip.images(eye, pixels) for pixels in drawn)
        x_i = clip.images(eye, pictures[rows])
        return cosine_similarity((x_c - x_r)[:, None], x_i[None] - x_r[:, None], dim=-1).mean().item()

    def circumvent(edit: Edit) -> list[dict[str, float]]:
        """Equations 7 to 10: under c the anchor's prediction; under the anchor, 0c and -c what the original says."""

        def loss(step: int) -> Tensor:
            fresh = len(found) == 1 or torch.rand(1, generator=draws).item() < replay
            ch, made = found[-1] if fresh else found[int(torch.randint(len(found) - 1, (1,), generator=draws))]
            x = made[torch.randint(len(made), (batch,), generator=draws)]
            t = torch.randint(1000, (batch,), generator=draws).to(model.device)
            x_t = noised(model, x, t, noise(model, draws, batch))
            with edit.off():
                goal, zero, minus = predictions(model, x_t, t, [c0, 0 * ch, -ch])
            erased, kept, kept_zero, kept_minus = predictions(model, x_t, t, [ch, c0, 0 * ch, -ch])
            l_c = reduce(erased - goal)
            l_p = reduce(kept - goal) + reduce(kept_zero - zero) + reduce(kept_minus - minus)
            return alpha_c * l_c + alpha_p * l_p

        plan = schedule or {800: 0.1}
        return descend(
            loss,
            edit.parameters,
            steps=steps,
            lr=lr,
            optimiser=optimiser,
            clip=clip_norm,
            schedule=plan,
            generator=draws,
            title="circumvent",
        )

    where = f"unet.*.to_{location[0]}.weight"
    with edits.lora(model, where, rank=rank, generator=draws) as edit:
        for loop in range(max_loops):
            rows = torch.randperm(len(pictures), generator=draws)[:images_per_loop]
            if mining:
                c, curve = mine(rows)
            else:
                texts = concept.texts["train"]
                c, curve = encode(model, [texts[int(torch.randint(len(texts), (1,), generator=draws))]]), []
            s = verify(c, rows)
            log.append({"loop": loop, "s": s, "pictures": rows.tolist(), "mine": curve})
            if s <= tau:
                break
            with edit.off():
                x = denoise(model, noise(model, draws, bank), guided(c, null, guidance), sampler_steps)[0]
            found.append(Mined(c, x))
            log[-1] |= {"circumvent": circumvent(edit), "s_after": verify(c, rows)}
        return edit.erasure(log)
