"""Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models (FMN). Zhang, Wang, Xu, Wang, Shi. CVPR Workshops 2024.

arXiv 2303.17591. Two stages. Textual inversion learns a word <s> for pictures of the concept, all weights frozen,

    min_s E_{x, t, eps} || eps - eps_0(x_t, t, "a photo of <s>") ||^2,

each row's norm r pulled to r + min(1, 100 lr) (0.4 - r) after every step. Attention re-steering then trains the UNet so that nothing
looks at that word: with A the cross-attention probabilities of every layer l and head h, for pixels p and the concept's tokens n,

    min_theta ( sum_{l, h, p, n} A_{l,h}[p, n]^2 )^(1/2).

Neither stage has a term that keeps anything. With `use_ti` the concept's own word is never trained: it fades as far as <s> is like it.
Official code: SHI-Labs/Forget-Me-Not, `src/train_ti.py` and `src/train_attn.py` @a4a81e8.
Differs from the official code: only the new rows are trained in stage one (equal to training the table and restoring the rest), on cached
VAE moments, and its loss is of the noise for models that predict v too; batches are right for more than one row, which may have different
words and numbers of tokens; a concept's words without `use_ti`, and pictures in both stages, are drawn anew for each row and not in epochs;
of ten rows and more the order stays, which stage two has by name there (<s1>, <s10>, <s2>). Its `max_grad_norm` of 1 clips cross-attention
alone: for the whole UNet it is handed a spent iterator and clips nothing, which is `clip: null` here (preset `official`). Several concepts
at once are not offered. The paper sums squared norms (`loss: squares`). Its template for nudity is not in the code; one can be given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from palimpsest import edits, tokens
from palimpsest.data import Concept, Images, said
from palimpsest.diffusion import both_ways, encode, noised, noisy, predict
from palimpsest.edits import Erasure
from palimpsest.optimise import Log, descend
from palimpsest.types import Count, Model, NotNegative, Positive

NEEDS = ("cross-attention", "one encoder")  # of families/: without them not defined

WORD = "concept"  # the learned word, <concept> in texts
WHERE = {"full": "unet.*", "attention": "unet.*attn2.*"}


@contextmanager
def probed(unet: Any) -> Iterator[list[Tensor]]:
    """Cross-attention by diffusers' plain processor; each layer adds its probabilities, "b*h p n", to the list, row by row of the batch."""
    layers = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    own = [layer.processor for layer in layers]
    maps: list[Tensor] = []

    def watched(scores: Any) -> Any:
        def probabilities(*args: Any) -> Tensor:
            maps.append(scores(*args))
            return maps[-1]

        return probabilities

    try:
        for layer in layers:
            layer.set_processor(AttnProcessor())
            layer.get_attention_scores = watched(layer.get_attention_scores)
        yield maps
    finally:
        for layer, processor in zip(layers, own, strict=True):
            layer.set_processor(processor)
            vars(layer).pop("get_attention_scores", None)  # the class's own again


def energy(maps: list[Tensor], columns: Tensor) -> Tensor:
    """sum of A^2 over layers, heads, pixels and each row's own tokens. Maps "b*h p n" in [0, 1], columns bool "b n"."""
    marked = columns[:, None, None, :]
    wide = [a.to(torch.promote_types(a.dtype, torch.float32)) for a in maps]  # autocast leaves them in bfloat16
    return torch.stack([(a.unflatten(0, (len(columns), -1)).pow(2) * marked).sum() for a in wide]).sum()


def columns(model: Model, text: str, name: str, learned: tokens.Words, use_pooler: str) -> Tensor:
    """Which places of a text belong to the concept, bool "n": those of its name (every time), and of end tokens as `use_pooler` says.

    Raises:
        ValueError: the name is not in the text.
    """
    ids, places = tokens.layout(model, text, learned)
    said = model.tokenizer(name, add_special_tokens=False).input_ids
    length = len(learned[WORD]) if learned else len(said)
    starts = [place for place, _ in places] if learned else [n for n in range(len(ids)) if ids[n : n + length] == said]
    named = {start + n for start in starts for n in range(length)}
    if not named:
        raise ValueError(f"fmn: template, ti_template: {name!r} is not in {text!r}; write a short one with {{}} where the word stands")
    ends = [n for n, token in enumerate(ids) if token == model.tokenizer.eos_token_id and n not in named]
    named |= set(ends[: {"none": 0, "first_eos": 1, "all": len(ends)}[use_pooler]])
    return torch.tensor([n in named for n in range(len(ids))], device=model.device)


def start(model: Model, text: str, vectors: int, sigma: float, draws: torch.Generator) -> Tensor:
    """The first value of the new rows, "k d": the tokens of a text, then normal noise."""
    table = model.text_encoder.get_input_embeddings().weight.detach()
    given = table[model.tokenizer(text, add_special_tokens=False).input_ids[:vectors]]
    return torch.cat([given, sigma * torch.randn(vectors - len(given), table.shape[1], generator=draws).to(given)])


@torch.no_grad()
def pull(rows: Tensor, goal: float, share: float) -> None:
    """Move the norm of each row by this share of its way to the goal, in place."""
    norm = rows.norm(dim=-1, keepdim=True)
    rows.copy_(torch.nn.functional.normalize(rows, dim=-1) * (norm + share * (goal - norm)))


def learn(
    model: Model,
    seen: Tensor,
    text: str,
    words: tokens.Words,
    draws: torch.Generator,
    *,
    norm: float | None,
    lr: float,
    batch: int,
    **settings: float,
) -> tuple[tokens.Words, Log]:
    """Stage one: a word for the pictures with these moments, "2 n 2c h w" (as they are, mirrored), that stands in the text."""
    leaf: list[Tensor] = []  # the rows that `invert` trains, for the pull

    def loss(learned: tokens.Words) -> Tensor:
        leaf[:] = learned.values()
        side, picked = (torch.randint(n, (batch,), generator=draws) for n in seen.shape[:2])
        (x_t,), t, eps = noisy(model, draws, seen[side, picked])
        return (eps - predict(model, x_t, t, [(encode(model, [text], learned), 1.0)])).pow(2).mean()

    def after(step: int) -> None:
        if norm is not None:
            pull(leaf[0], norm, min(1.0, 100 * lr))

    return tokens.invert(model, loss, words, lr=lr, after=after, generator=draws, title="fmn: word", **settings)


def erase(
    model: Model,
    concept: Concept,
    images: Images,
    *,
    seed: int,
    pictures: Count | None = None,
    use_ti: bool = True,
    vectors: Count = 4,
    initialiser: str | None = None,
    sigma: NotNegative = 1.0,
    template: str | None = None,
    ti_template: str | None = None,
    ti_steps: int = 500,
    ti_lr: Positive = 1e-3,
    ti_weight_decay: NotNegative = 0.1,
    ti_batch: Count = 1,
    norm: NotNegative | None = 0.4,
    use_pooler: Literal["none", "first_eos", "all"] = "all",
    trained: Literal["full", "attention"] = "full",
    loss: Literal["norm", "squares"] = "norm",
    steps: int = 35,
    lr: Positive = 2e-6,
    weight_decay: NotNegative = 0.01,
    batch: Count = 1,
    clip: Positive | None = 1.0,
    no_real_image: bool = False,
) -> Erasure:
    """Learn a word for the concept from the pool's pictures, then train the UNet's attention away from it. The word is kept as `found`.

    Args:
        pictures: so many of the pool, the first ones; None: all.
        use_ti: learn a word; otherwise the concept's own words are re-steered.
        vectors, initialiser, sigma: rows of the new word. They start from the tokens of a text (None: the concept's word; tokens beyond the
            rows are left out), the others from N(0, sigma^2).
        template: the text of both stages, {} where the word stands; None is the official one of the concept's kind.
        ti_template: that of stage one, if it is another.
        norm: what the rows' norms are pulled to (that of CLIP's own rows); None lets them be.
        use_pooler: end tokens that count with the concept's. `all` is the official literal reading: one where texts are padded with another
            token (SD 2), but with SD 1's every pad token, which leaves attention only the words before.
        trained: the whole UNet, or cross-attention alone. What comes after the last map has no gradient and stays.
        loss: the official Euclidean norm of all at once, or the paper's sum of squares.
        clip: largest gradient norm in stage two; None clips nothing, as the official code for the whole UNet.
        no_real_image: x_t of stage two is noise with no picture in it.
    """
    pool = images.only("pool")[:pictures]
    if not len(pool):
        raise ValueError("fmn: there are no pictures of role 'pool'; draw the concept's pool first (pool.images in params.yaml)")
    if use_ti and vectors < 1:
        raise ValueError(f"fmn: vectors is {vectors}; a learned word has at least one, or set use_ti: false")
    template = template or ("a photo in the style of {}" if concept.kind == "style" else "a photo of {}")
    names = [f"<{WORD}>"] if use_ti else list(concept.words)
    texts = [said("fmn: template", template, name) for name in names]
    ti_text = said("fmn: ti_template", ti_template or template, names[0])
    draws = torch.Generator().manual_seed(seed)
    words = {WORD: start(model, initialiser or concept.word, vectors, sigma, draws)} if use_ti else {}
    marked = torch.stack([columns(model, text, name, words, use_pooler) for text, name in zip(texts, names, strict=True)])
    if use_ti:
        columns(model, ti_text, names[0], words, "none")  # raises where the word is missing
    seen = both_ways(model, pool.pixels())
    curve: Log = []
    if use_ti:
        words, curve = learn(
            model, seen, ti_text, words, draws,
            steps=ti_steps, lr=ti_lr, weight_decay=ti_weight_decay, batch=ti_batch, norm=norm,
        )  # fmt: skip

    contexts = encode(model, texts, words)
    with edits.dense(model, WHERE[trained], aside=True) as edit, probed(model.unet) as maps:

        def attention(step: int) -> Tensor:
            maps.clear()
            picked, said = (torch.randint(n, (batch,), generator=draws) for n in (len(pool), len(texts)))
            (x_t,), t, eps = noisy(model, draws, seen[0, picked])
            if no_real_image:
                x_t = noised(model, torch.zeros_like(x_t), t, eps)
            predict(model, x_t, t, [(contexts[said], 1.0)])
            total = energy(maps, marked[said])
            return total.sqrt() if loss == "norm" else total

        log = descend(
            attention, edit.parameters, steps=steps, lr=lr, weight_decay=weight_decay, clip=clip, generator=draws, title="fmn: attention"
        )
        return edit.erasure({"word": curve, "attention": log}, found=words)
