"""STEREO: A Two-Stage Framework for Adversarially Robust Concept Erasing from Text-to-Image Diffusion Models. Srivatsan, Shamshad,
Naseer, Patel, Nandakumar. CVPR 2025. arXiv 2408.16807.

STE, search thoroughly enough: K rounds of erasing the text p_i (the concept, then the word learned last) and of learning a new word that
still draws the concept; all that stays of it are the K words. REO, robustly erase once: the original is trained anew, for a text q of
E = {concept, K words} and anchors a, sentences that hold the concept in a scene. With u the empty text and eps the model on entry,

    STE (Equation 4):  eps_theta(x_t, p_i) <- eps(u) - eta [eps(p_i) - eps(u)]
    REO (Algorithm 1): eps_theta(x_t, q)   <- eps(u) + w_pos mean_a [eps(a) - eps(u)] - w_neg mean_{e in E} [eps(e) - eps(u)],

x_t drawn by the student under p_i or q and stopped on the way. Official code: koushiksrivats/robust-concept-erasing @86f124f, whose
values are the defaults: its `negative_guidance` g is eta + 2, and its `compositional_guidance_scale` s gives w_pos = s - 1, w_neg = s + 1.
Differs from the official code: `start_from` is `word` here and `piece` there; its adaptive projected guidance is left out, which is the
identity as called there; an attack draws its pictures with replacement (there 3000 of 100 copies of each, without); REO draws from `seed`
and not from where STE left the generator, so that it is a function of the words; further words of a concept, where asked for, join E one
by one. With the same draws both stages give the same weights and words in float64, for each of `layers` and any g and s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest import edits, tokens
from palimpsest.data import Concept, Images
from palimpsest.diffusion import both_ways, denoise, encode, guided, noise, noised, posterior, predict
from palimpsest.edits import Erasure
from palimpsest.optimise import Log, descend
from palimpsest.reuse import once
from palimpsest.tokens import Words
from palimpsest.types import Count, Mix, Model, NotNegative, Positive, Text

PICTURES = {"pool": "rounds"}  # the least of each role that it learns from
WHERE = {  # linear and convolution layers
    "noxattn": "unet.* !*norm* !*attn2*",
    "xattn": "unet.*attn2.*",
    "selfattn": "unet.*attn1.*",
    "full": "unet.* !*norm*",
}


class Common(NamedTuple):
    """What both stages do alike; `erase` says what each is."""

    layers: Literal["noxattn", "xattn", "selfattn", "full"] = "noxattn"
    names: Literal["first", "all"] = "first"
    batch: int = 1
    sampler_steps: int = 50
    guidance: float = 3.0
    latent_alignment: Literal["exact", "legacy"] = "legacy"


COMMON = Common()
SCENES = ("scenes", "pool")  # lists of sentences that hold the concept in a scene, REO's anchors


def composed(null: Text, anchors: Sequence[Text], erased: Sequence[Text], w_pos: float, w_neg: float) -> Mix:
    """The right hand sides above as a mix of the teacher's predictions; STE's has no anchor, and p_i alone with w_neg = eta."""
    mix = [(null, 1 - w_pos * bool(anchors) + w_neg)]
    mix += [(text, w_pos / len(anchors)) for text in anchors] + [(text, -w_neg / len(erased)) for text in erased]
    return [(text, weight) for text, weight in mix if weight]


def stratified(of: int, count: int, draws: torch.Generator) -> Tensor:
    """`count` numbers below `of`: each equally often, in random order, then the remainder drawn without replacement."""
    even = torch.arange(of).repeat(count // of)
    return torch.cat([even[torch.randperm(len(even), generator=draws)], torch.randperm(of, generator=draws)[: count % of]])


def listed(concept: Concept, *names: str) -> list[str]:
    """A prompt list of the concept: of these names the first that it has.

    Raises:
        ValueError: it has none.
    """
    found = [name for name in names if concept.texts.get(name)]
    if not found:
        raise ValueError(f"concept {concept.name}: texts has no {names[-1]!r}; stereo needs it, gen_prompts writes it")
    return list(concept.texts[found[0]])


def beginning(model: Model, concept: Concept, start_from: str) -> Tensor:
    """What a new word starts from, "1 d" with a part for each encoder: the concept's initialiser, a word or a raw entry of the vocabulary,
    which is that of unknown words where there is none, as in the official code.
    """
    if start_from == "word":
        return tokens.vector(model, concept.initialiser)
    rows = [reader.tokenizer.convert_tokens_to_ids(concept.initialiser) for reader in model.readers]
    tables = [reader.text_encoder.get_input_embeddings().weight.detach() for reader in model.readers]
    return torch.cat([table[[row]] for table, row in zip(tables, rows, strict=True)], dim=1)


def spoken(concept: Concept, names: str) -> list[str]:
    return [concept.word] if names == "first" else list(concept.words)


def forget(
    model: Model, plan: Callable[[int], tuple[Text, Mix]], common: Common, *, steps: int, lr: float, draws: torch.Generator, title: str
) -> Erasure:
    """Train the weights so that each erased text gives what the model on entry predicts by a mix: the step of both stages.

    Args:
        plan: for a step, the text that each row erases, "b n d", and the mix that takes its place.
    """
    null, length = encode(model, [""]), common.sampler_steps
    ahead = 1000 // length - 1 if common.latent_alignment == "legacy" else 0
    with edits.dense(model, WHERE[common.layers]) as edit:

        def loss(step: int) -> Tensor:
            text, mix = plan(step)
            until = int(torch.randint(1, length - 1, (1,), generator=draws))
            x, t = denoise(model, noise(model, draws, len(text)), guided(text, null, common.guidance), length, until)
            t = min(t + ahead, 999)  # a flow's first levels are nearer to it
            with edit.off():
                goal = predict(model, x, t, mix)
            return (predict(model, x, t, [(text, 1.0)]) - goal).pow(2).mean()

        log = descend(loss, edit.parameters, steps=steps, lr=lr, generator=draws, title=title)
        return edit.erasure(log)


def attack(
    model: Model, seen: Tensor, templates: list[str], word: str, start: Tensor, *, steps: int, lr: float, batch: int, draws: torch.Generator
) -> tuple[Words, Log]:
    """Concept inversion (Pham et al. 2024): a word, at first "k d", with which the model denoises pictures of the concept; `seen` are their
    moments and those of their mirror images, "2 n 2c h w".
    """

    def loss(words: Words) -> Tensor:
        mirrored, rows = (torch.randint(n, (batch,), generator=draws) for n in seen.shape[:2])
        x, eps = posterior(model, seen[mirrored, rows], noise(model, draws, batch)), noise(model, draws, batch)
        t = torch.randint(999, (batch,), generator=draws).to(model.device)  # 0 to 998, as in the official code
        picked = torch.randint(len(templates), (batch,), generator=draws)
        text = encode(model, [templates[n].format(f"<{word}>") for n in picked], words)
        return (predict(model, noised(model, x, t, eps), t, [(text, 1.0)]) - eps).pow(2).mean()

    return tokens.invert(model, loss, {word: start}, steps=steps, lr=lr, optimiser="adamw", generator=draws, title=word)


def search(
    model: Model, concept: Concept, images: Images, *, seed: int, rounds: int = 4, eta: float = 0.0, steps: int = 200, lr: float = 5e-6,
    invert_steps: int = 3000, invert_lr: float = 5e-3, invert_batch: int = 1, vectors: int = 1,
    start_from: Literal["word", "piece"] = "word", reset_seeds: bool = True, common: Common = COMMON,
) -> tuple[Words, list[dict[str, Log]], Erasure]:  # fmt: skip
    """STE: the learned words, each round's log, the weights behind the last; the model is as it was. `steps` and `lr` are of erasing.

    Raises:
        ValueError: the concept has no templates, or there are fewer pictures of it than rounds, or the schedule is too short.
    """
    pool, templates = images.only("pool"), listed(concept, "templates")
    if len(pool) < rounds:
        raise ValueError(f"images: {len(pool)} of role 'pool' for {rounds} rounds of stereo; draw more (`pool.images`) or lower `rounds`")
    if common.sampler_steps < 3:
        raise ValueError(f"stereo: sampler_steps {common.sampler_steps} leaves x_t no step to stop at; make it 3 or more")
    if not rounds:
        return {}, [], Erasure("nothing")
    null, start = encode(model, [""]), beginning(model, concept, start_from).repeat(vectors, 1)
    pixels, share = pool.pixels(), len(pool) // rounds
    seen = both_ways(model, pixels)
    draws = torch.Generator().manual_seed(seed)
    words: Words = {}
    log: list[dict[str, Log]] = []
    erased = spoken(concept, common.names)

    def fresh() -> torch.Generator:
        return draws.manual_seed(seed) if reset_seeds else draws

    with edits.dense(model, WHERE[common.layers], aside=True):  # trains nothing itself: it brings the original back
        for k in range(rounds):
            texts, word = encode(model, erased, words), f"ste-{k:02}"

            def plan(step: int) -> tuple[Text, Mix]:
                p = texts[torch.arange(step * common.batch, (step + 1) * common.batch) % len(texts)]  # several words take turns
                return p, composed(null, [], [p], 0.0, eta)

            weaker = forget(model, plan, common, steps=steps, lr=lr, draws=fresh(), title=f"erase {', '.join(erased)}")
            edits.apply(model, weaker)  # what is attacked now, and the next round's teacher
            part = seen[:, k * share : (k + 1) * share]
            found, curve = attack(model, part, templates, word, start, steps=invert_steps, lr=invert_lr, batch=invert_batch, draws=fresh())
            words |= found
            erased = [f"<{word}>"]
            log.append({"erase": weaker.log, "attack": curve})
    return words, log, weaker


def reo(
    model: Model, concept: Concept, words: Words, *, seed: int, adversarial: int = 4, w_pos: float = 1.0, w_neg: float = 3.0,
    away: Literal["all", "shown"] = "all", anchors: int = 1, steps: int = 200, lr: float = 2e-5, common: Common = COMMON,
) -> Erasure:  # fmt: skip
    """REO: erase the concept and the first of its learned words from the model, at one go."""
    draws = torch.Generator().manual_seed(seed)
    learned = [f"<{word}>" for word in sorted(words)[:adversarial]]
    null, erased = encode(model, [""]), encode(model, spoken(concept, common.names) + learned, words)
    scenes = encode(model, listed(concept, *SCENES))
    shown = stratified(len(erased), steps * common.batch, draws).view(steps, common.batch)
    beside = stratified(len(scenes), steps * anchors * common.batch, draws).view(steps, anchors, common.batch)

    def plan(step: int) -> tuple[Text, Mix]:
        turned = erased.split(1) if away == "all" else [erased[shown[step]]]
        return erased[shown[step]], composed(null, [scenes[rows] for rows in beside[step]], turned, w_pos, w_neg)

    return forget(model, plan, common, steps=steps, lr=lr, draws=draws, title="reo")


def erase(
    model: Model, concept: Concept, images: Images, *, seed: int,
    rounds: int = 4, eta: float = 0.0, ste_steps: int = 200, ste_lr: Positive = 5e-6, invert_steps: int = 3000, invert_lr: Positive = 5e-3,
    invert_batch: Count = 1, vectors: Count = 1, start_from: Literal["word", "piece"] = "word", reset_seeds: bool = True,
    adversarial: int = 4, w_pos: NotNegative = 1.0, w_neg: NotNegative = 3.0, away: Literal["all", "shown"] = "all", anchors: Count = 1,
    steps: int = 200, lr: Positive = 2e-5, layers: Literal["noxattn", "xattn", "selfattn", "full"] = "noxattn",
    names: Literal["first", "all"] = "first", batch: Count = 1, sampler_steps: Count = 50, guidance: float = 3.0,
    latent_alignment: Literal["exact", "legacy"] = "legacy", stage: Literal["reo", "ste"] = "reo",
) -> Erasure:  # fmt: skip
    """STE, then REO on the original weights. The erasure's `found` holds the learned words: entries that differ in REO alone, that is in
    `adversarial` to `lr` below, share them.

    Args:
        rounds: K of STE, each on its own share of the pictures.
        eta: strength of the steering in STE.
        invert_steps, invert_lr, invert_batch, vectors: of the attacks; a word has so many vectors.
        start_from: a new word is at first the concept's initialiser as a word, or (`piece`, the official code) what the vocabulary has
            under those letters: in CLIP's the beginning of longer words, or for "object", which begins none, the end token.
        reset_seeds: every erasing and every attack of STE draws the same numbers again.
        adversarial: how many of the words REO erases, the first ones; all of them where there are no more.
        w_pos, w_neg, away: weights of the anchors and of E; 1 and 0 leaves the anchors alone, 0 and 1 leaves E. Its mean is steered away
            from, or the shown text alone (with 0 and 1 ESD's loss; compare the paper's Table 5).
        anchors: sentences a step that the anchors' mean is taken over.
        layers: all linear and convolution layers but those of cross-attention; those of cross-attention or of self-attention alone; or all.
        names: whether the concept is its name or all of its words.
        sampler_steps: length of the schedule of which x_t is a part.
        latent_alignment: the label t is the level of x_t itself, or (`legacy`) 19 levels above it, as in the official code.
        stage: `ste` gives the model behind the last round of STE, without REO (the paper's Table 5; its first is that of `rounds: 1`).
    """
    common = Common(layers, names, batch, sampler_steps, guidance, latent_alignment)
    listed(concept, *SCENES)  # missed before the search and not after it
    ste: dict[str, Any] = {
        "rounds": rounds, "eta": eta, "steps": ste_steps, "lr": ste_lr, "invert_steps": invert_steps, "invert_lr": invert_lr,
        "invert_batch": invert_batch, "vectors": vectors, "start_from": start_from, "reset_seeds": reset_seeds,
    }  # fmt: skip
    if stage == "ste":
        words, searched, weaker = search(model, concept, images, seed=seed, **ste, common=common)
        return replace(weaker, found=words, log={"search": searched})
    words, searched = once("search", ste | common._asdict(), lambda: search(model, concept, images, seed=seed, **ste, common=common)[:2])
    made = reo(model, concept, words, seed=seed, adversarial=adversarial, w_pos=w_pos, w_neg=w_neg, away=away, anchors=anchors, steps=steps,
               lr=lr, common=common)  # fmt: skip
    return replace(made, found=words, log={"search": searched, "reo": made.log})
