"""A Pilot Study of Query-Free Adversarial Attack against Stable Diffusion (QF-Attack). Zhuang, Zhang, Liu. CVPR Workshops 2023.

arXiv 2303.16378. Five characters behind a prompt that turn its text embedding, found on the text encoder E of the unedited model alone,

    min_s cos(m E(P), m E(P + " " + s)),    m = 1, or (targeted) the coordinates that a phrase moves the same way in nearly all sentences.

It says how fragile a prompt is; it does not look for an erased concept. Three searches: greedy (characters from left to right, then
sweeps), genetic, and sign gradient ascent of 1 / cos on the characters' logits by straight-through Gumbel samples ("pgd").
Official code: OPTML-Group/QF-Attack, 06a9f83, utils.py. Its quirks are the defaults: greedy fills without the mask (`masked_fill`), the
gradient is that of the last of the best samples (`backward`), the places for characters are counted in words (`slots`), and what was found
token by token is asked as text, where characters may join (`by`); pgd projects nothing, since its projection is switched off there.
Differs from the official code: prompts are searched side by side, each on its own stream, candidates in batches; equal samples are measured
once; a uniform number behind each Gumbel one; in the targeted mask the share of sentences that must agree, 9 of 10, for any number of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from string import ascii_uppercase, digits
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palimpsest import pieces, search, tokens
from palimpsest.data import Concept, Images, Prompt, Prompts
from palimpsest.diffusion import encode, filled
from palimpsest.draws import Draws, Seeded, Stream
from palimpsest.reuse import Result, once
from palimpsest.types import Count, Model, Positive, Share

NEEDS = ("one encoder",)  # of families/: without it not defined

BUDGET = "black box, blind to the erased model; {length} characters behind each prompt ({form} search); each asked once"
ALPHABET = "·~!@#$%^&*()=-*+.<>?,';:|\\/" + ascii_uppercase + digits  # 63 entries, "*" twice, as published
Found = list[tuple[str, tuple[int, ...] | None, tuple[float, ...]]]  # characters, tokens of all if those were searched, cosine by step


class Aim(NamedTuple):
    """Prompts "p" to move away from: the model that reads them, their states "p n d", and the mask "n d"."""

    model: Model
    rows: Sequence[Prompt]
    states: Tensor
    mask: Tensor
    batch: int

    def cosines(self, states: Tensor, of: Tensor, masked: bool = True) -> Tensor:
        """cos of states "b n d" with those of the prompts that `of` "b" names, "b"."""
        mask = self.mask if masked else 1.0
        return cosine_similarity((self.states[of] * mask).flatten(1), (states * mask).flatten(1), dim=1, eps=1e-6)

    @torch.no_grad()
    def read(self, candidates: Sequence[tuple[int, Any]], masked: bool = True) -> list[float]:
        """cos of each candidate, (number of its prompt, a text or ids), `batch` at a time."""
        made: list[float] = []
        for first in range(0, len(candidates), self.batch):
            of, asked = zip(*filled(candidates[first : first + self.batch], self.batch), strict=True)
            made += self.cosines(encode(self.model, asked), torch.tensor(of, device=self.states.device), masked).tolist()
        return made[: len(candidates)]


def steerable(model: Model, sentences: Sequence[str], phrases: Sequence[str], agreement: float) -> Tensor:
    """The targeted mask, "n d": 1 where the sign of E(without) - E(with) is the same in more than this share of the sentences, net.

    Raises:
        ValueError: a sentence has none of the phrases, or no coordinate is left.
    """
    named = re.compile("|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True)))
    if lacking := [text for text in sentences if not named.search(text)]:
        raise ValueError(f"phrase: {lacking[0]!r} has no {' or '.join(phrases)}; name in `phrase` what the sentences share")
    signs = [(encode(model, [named.sub("", text)]) - encode(model, [text])).sign()[0] for text in sentences]
    mask = (torch.stack(signs).sum(0).abs() > agreement * len(signs)).float() if signs else torch.zeros(1)
    if not mask.any():
        raise ValueError(
            f"agreement: no coordinate moves alike in more than {agreement:g} of {len(signs)} sentences; lower it or name others"
        )
    return mask


def greedy(aim: Aim, streams: Sequence[Draws], length: int, *, sweeps: int, masked_fill: bool, random_first: bool) -> Found:
    """Characters one after the other, each the best of the alphabet where it stands; then `sweeps` times each again."""

    def best(found: list[str], place: int, masked: bool) -> list[str]:
        candidates = [[text[:place] + c + text[place + 1 :] for c in ALPHABET] for text in found]
        values = torch.tensor(aim.read([(n, f"{aim.rows[n].text} {s}") for n, mine in enumerate(candidates) for s in mine], masked))
        curves.append(values.view(len(found), -1).amin(1).tolist())
        return [mine[at] for mine, at in zip(candidates, values.view(len(found), -1).argmin(1).tolist(), strict=True)]

    found, curves = [ALPHABET[int(draws.integers(len(ALPHABET), 1))] if random_first else "" for draws in streams], list[list[float]]()
    for n, place in enumerate([*range(int(random_first), length)] * (1 + sweeps)):
        found = best(found, place, masked_fill or n >= length - int(random_first))
    return [(text, None, curve) for text, curve in zip(found, zip(*curves, strict=True), strict=True)]


def paired(draws: Draws, herd: Sequence[str]) -> list[str]:
    """For each string, two: it and a random mate with their heads exchanged, then one same random character in both."""
    m, length = len(herd), len(herd[0])
    mates, cuts = draws.integers(m, m).tolist(), (draws.integers(length - 1, m) + 1).tolist()
    places, chosen = draws.integers(length, m).tolist(), draws.integers(len(ALPHABET), m).tolist()
    each = zip(herd, [herd[mate] for mate in mates], cuts, places, chosen, strict=True)
    crossed = [(text, at, c) for mine, other, cut, at, c in each for text in (other[:cut] + mine[cut:], mine[:cut] + other[cut:])]
    return [text[:at] + ALPHABET[c] + text[at + 1 :] for text, at, c in crossed]


def genetic(aim: Aim, streams: Sequence[Draws], length: int, *, pool: int, generations: int, survivors: int) -> Found:
    """The best string that was ever met."""
    picked = [draws.noise(pool, len(ALPHABET)).argsort(1)[:, :length].tolist() for draws in streams]
    herds = [["".join(ALPHABET[c] for c in row) for row in mine] for mine in picked]
    known, curves = [dict[str, float]() for _ in streams], list[list[float]]()
    for _ in range(generations):
        herds = [paired(draws, herd) for draws, herd in zip(streams, herds, strict=True)]
        fresh = [(n, s) for n, herd in enumerate(herds) for s in dict.fromkeys(herd) if s not in known[n]]
        for (n, s), value in zip(fresh, aim.read([(n, f"{aim.rows[n].text} {s}") for n, s in fresh]), strict=True):
            known[n][s] = value
        herds = [sorted(herd, key=lambda s, n=n: (known[n][s], s))[:survivors] for n, herd in enumerate(herds)]  # type: ignore[misc]
        curves.append([known[n][herd[0]] for n, herd in enumerate(herds)])
    return [(min(seen, key=seen.__getitem__), None, curve) for seen, curve in zip(known, zip(*curves, strict=True), strict=True)]


def places(model: Model, row: Prompt, length: int, slots: str) -> tuple[list[int], list[int]]:
    """The prompt's tokens before and behind its characters, which stand behind as many tokens as it has tokens, or, as published, words."""
    ids, end = search.encoded(model, row), model.tokenizer.eos_token_id
    start = len(ids) if slots == "tokens" else len(row.text.split(" "))
    return [*ids[:start], *[end] * (start - len(ids))], ids[start + length :]


def sampled(draws: Draws, logits: Tensor, samples: int, tau: float) -> Tensor:
    """softmax((logits + Gumbel noise) / tau), "s l c"; the largest of a row is its hard sample."""
    uniform = (draws.integers(2**53, samples, *logits.shape).double() + 0.5) / 2**53
    return ((logits - (-uniform.log()).log()) / tau).softmax(-1)


def gradient(aim: Aim, n: int, ids: Sequence[int], letters: Tensor, start: int) -> Tensor:
    """Of 1 / cos by the choice of each character, "l c", where the tokens "l" from place `start` on are chosen among `letters` "l c"."""
    line = torch.tensor([tokens.layout(aim.model, ids, {})[0]], device=letters.device)
    table = aim.model.text_encoder.get_input_embeddings()
    with torch.enable_grad():
        embeddings = table(line).detach().requires_grad_()
        loss = 1 / aim.cosines(tokens.run(aim.model, line, embeddings), torch.tensor([n], device=line.device))
        (found,) = torch.autograd.grad(loss.sum(), embeddings)
    return torch.einsum("ld,lcd->lc", found[0, start : start + len(letters)], table(letters)).double().cpu()


def descended(
    aim: Aim, streams: Sequence[Draws], length: int, *, iterations: int, samples: int, top: int, tau: float, step: float, backward: str,
    slots: str,
) -> Found:  # fmt: skip
    """Sign gradient ascent of 1 / cos: of each prompt the best sample that was met, as characters and as the tokens of the whole."""
    room = aim.model.tokenizer.model_max_length - 2
    spelt = torch.tensor([tokens.layout(aim.model, f"{c} " * room, {})[0] for c in ALPHABET])  # "c n": a character at each place
    around = [places(aim.model, row, length, slots) for row in aim.rows]
    letters = [spelt[:, len(head) + 1 :][:, :length].T for head, _ in around]
    logits = [torch.full((length, len(ALPHABET)), 1 / len(ALPHABET), dtype=torch.float64) for _ in around]
    known, curves = dict[tuple[int, tuple[int, ...]], float](), list[list[float]]()
    best: list[tuple[float, Any]] = [(0.0, None)] * len(around)
    for _ in range(iterations):
        soft = [sampled(draws, mine, samples, tau) for draws, mine in zip(streams, logits, strict=True)]
        hard = [one.argmax(-1) for one in soft]
        ids = [letters[n][torch.arange(length), one].tolist() for n, one in enumerate(hard)]
        asked = [[(n, (*around[n][0], *one, *around[n][1])) for one in mine] for n, mine in enumerate(ids)]
        fresh = [key for key in dict.fromkeys(chain(*asked)) if key not in known]
        known.update(zip(fresh, (1 / torch.tensor(aim.read(fresh))).tolist(), strict=True))
        curves.append([1 / max(known[key] for key in mine) for mine in asked])
        for n, mine in enumerate(asked):
            values = [known[key] for key in mine]
            if max(values) >= best[n][0]:
                last = max(s for s in range(samples) if values[s] == max(values))
                best[n] = values[last], ("".join(ALPHABET[c] for c in hard[n][last]), mine[last][1])
            picked = [values.index(value) for value in sorted(set(values), reverse=True)[:top]]  # each value once
            up = torch.zeros_like(logits[n])
            for s in picked if backward == "all" else picked[-1:]:
                v, y = gradient(aim, *mine[s], letters[n].to(aim.states.device), len(around[n][0]) + 1), soft[n][s]
                up += y * (v - (y * v).sum(1, keepdim=True)) / tau
            logits[n] = logits[n] + step / iterations**0.5 * up.sign()
    return [(*found, curve) for (_, found), curve in zip(best, zip(*curves, strict=True), strict=True)]


def answered(model: Model, row: Prompt, by: str, characters: str, ids: Sequence[int] | None, curve: Sequence[float]) -> tuple[Prompt, list]:
    """The prompt with its characters; its log, which says, too, whether its text is read as the very tokens that were searched."""
    whole = row._replace(text=f"{row.text} {characters}", stage=1, by=by)
    read = search.encoded(model, whole)
    log = [{"unit": float(row.unit), "step": step, "loss": loss} for step, loss in enumerate(curve)]
    return whole._replace(ids=tuple(ids or read)), [*log, {"unit": row.unit, "same_tokens": float(ids is None or list(ids) == read)}]


def roomy(model: Model, plain: Prompts, length: int) -> set[int]:
    """The units whose prompts leave room for the characters; how many there are is said where it is not all."""
    room = model.tokenizer.model_max_length - 2 - length
    kept = {row.unit for row in plain.rows if max(len(search.encoded(model, row)), len(row.text.split(" "))) <= room}
    if not plain.rows:
        raise ValueError(search.NOTHING)
    if not kept or length < 2:
        raise ValueError(f"length: none of {len(plain.rows)} prompts has room for {length} characters (at least 2); use shorter prompts")
    if len(kept) < len(plain.rows):
        print(f"palimpsest: {len(plain.rows)} prompts, {len(kept)} of them short enough; the others are asked plainly", file=sys.stderr)
    return kept


def attack(
    model: Model, concept: Concept, images: Images, *, original: Callable[[], Model], plain: Prompts, seed: int, draws: Stream = Seeded,
    form: Literal["greedy", "genetic", "pgd"] = "greedy", length: Count = 5,
    targeted: bool = False, sentences: list[str] | None = None, phrase: str | None = None, agreement: Share = 0.9,
    sweeps: int = 1, masked_fill: bool = False, random_first: bool = False, pool: Count = 10, generations: Count = 50,
    survivors: Count = 20, iterations: Count = 100, samples: Count = 100, top: int = 5, tau: Positive = 0.5, step: Positive = 1.0,
    backward: Literal["last", "all"] = "last", slots: Literal["words", "tokens"] = "words",
    by: Literal["text", "ids"] = "text", prompts: Count | None = None, at_once: Count = 8, batch: Count = 256,
) -> Prompts:  # fmt: skip
    """Put characters behind each plain prompt that move its embedding away.

    Args:
        form, length: of the search; how many characters.
        targeted, sentences, phrase, agreement: only the coordinates that the phrase (None: the concept's words) moves alike in more than
            this share of the sentences (None: those of the concept's pool).
        sweeps, masked_fill, random_first: greedy: rounds behind the filling, whether it sees the mask, whether the first is drawn.
        pool, generations, survivors: genetic: strings at first, how often they pair, how many stay.
        iterations, samples, top, tau, step, backward, slots: pgd: steps; samples a step, how many of them are the best; temperature; rate
            times sqrt(iterations); the gradient of the last or of all of the best; behind how many words or tokens characters stand.
        by: whether the text is asked, as published, or the tokens (those that pgd searched).
        prompts, at_once, batch: how many of the plain prompts (None: all); searched side by side; rows that the encoder reads at a time.
    """
    fits, blind, stream = roomy(model, plain := plain.units(prompts), length), cache(original), search.seeded(draws, seed)
    searches: dict[str, Callable[..., Found]] = {"greedy": greedy, "genetic": genetic, "pgd": descended}
    sizes: dict[str, dict[str, Any]] = {
        "greedy": {"sweeps": sweeps, "masked_fill": masked_fill, "random_first": random_first},
        "genetic": {"pool": pool, "generations": generations, "survivors": survivors},
        "pgd": {"iterations": iterations, "samples": samples, "top": top, "tau": tau, "step": step, "backward": backward, "slots": slots},
    }  # fmt: skip
    given = {"sentences": sentences or list(concept.texts["pool"]), "phrases": [phrase] if phrase else list(concept.words)}
    mask = cache(lambda: steerable(blind(), **given, agreement=agreement) if targeted else torch.ones(1, 1, device=blind().device))

    def ask(some: Prompts) -> Prompts:
        rows = [row for row in some.rows if row.unit in fits]

        def found() -> Result:
            aim = Aim(blind(), rows, encode(blind(), [row.text for row in rows]), mask(), batch)
            return {}, searches[form](aim, [stream(row) for row in rows], length, **sizes[form])

        about = {"asked": [(row.text, row.seed) for row in rows], "seed": seed, "form": form, "length": length, "targeted": targeted}
        made = once("qf", {**about, **sizes[form], **given, "agreement": agreement, "batch": batch}, found)[1] if rows else []
        answers = [answered(model, row, by, *one) for row, one in zip(rows, made, strict=True)]
        others = [row for row in some.rows if row.unit not in fits]
        return Prompts([*others, *(row for row, _ in answers)], log=[line for _, log in answers for line in log])

    return pieces.by_prompt(plain, at_once, ask)
