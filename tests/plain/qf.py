"""QF-Attack's searches for one prompt, one candidate at a time, as utils.py has them; draws in the order of palimpsest/attacks/qf.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from palimpsest.draws import Draws
from palimpsest.types import Model
from plain import encode


def cosine(model: Model, states: Tensor, text: str, mask: Tensor | None) -> float:
    with torch.no_grad():
        return away(states, encode(model, [text]), mask).item()


def away(states: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    a, b = states.flatten(), other.flatten()
    if mask is not None:
        a, b = a * mask.flatten(), b * mask.flatten()
    return cosine_similarity(a, b, dim=0, eps=1e-6)


def greedy(model: Model, prompt: str, alphabet: str, length: int, sweeps: int, mask: Tensor | None, masked_fill: bool) -> str:
    states, text = encode(model, [prompt]), prompt + " "

    def best(text: str, place: int, mask: Tensor | None) -> str:
        found, smallest = "", 1.0
        for c in alphabet:
            changed = list(text)
            changed[place] = c
            value = cosine(model, states, "".join(changed), mask)
            if value < smallest:
                found, smallest = "".join(changed), value
        return found

    for _ in range(length):
        text = best(text + " ", -1, mask if masked_fill else None)
    for _ in range(sweeps):
        for place in range(length, 0, -1):
            text = best(text, -place, mask)
    return text


def genetic(
    model: Model, prompt: str, alphabet: str, draws: Draws, length: int, pool: int, generations: int, survivors: int, mask: Tensor | None
) -> str:
    states, known = encode(model, [prompt]), {}
    herd = ["".join(alphabet[c] for c in row[:length]) for row in draws.noise(pool, len(alphabet)).argsort(1).tolist()]
    for _ in range(generations):
        highs = (len(herd), length - 1, length, len(alphabet))
        mates, cuts, places, chosen = (draws.integers(high, len(herd)).tolist() for high in highs)
        born = []
        for n, one in enumerate(herd):
            first, second, cut = list(one), list(herd[mates[n]]), cuts[n] + 1
            first[:cut], second[:cut] = second[:cut], first[:cut]
            first[places[n]] = second[places[n]] = alphabet[chosen[n]]
            born += ["".join(first), "".join(second)]
        scored = []
        for one in born:
            if one not in known:
                known[one] = cosine(model, states, f"{prompt} {one}", mask)
            scored.append((known[one], one))
        herd = [one for _, one in sorted(scored)][:survivors]
    return sorted(known.items(), key=lambda both: both[1])[0][0]


def descent(
    model: Model, prompt: str, alphabet: str, draws: Draws, length: int, iterations: int, samples: int, top: int, tau: float,
    mask: Tensor | None,
) -> tuple[str, list[Tensor]]:  # fmt: skip
    """The characters, and the logits "l c" of every step: through autograd, on the vectors of the letters themselves."""
    table, tokenizer, states = model.text_encoder.get_input_embeddings(), model.tokenizer, encode(model, [prompt])
    room, first = tokenizer.model_max_length, len(prompt.split(" ")) + 1
    whole = {"padding": "max_length", "max_length": room, "truncation": True, "return_tensors": "pt"}
    line = tokenizer([prompt], **whole).input_ids
    letters = table(torch.cat([tokenizer([f"{c} " * (room - 2)], **whole).input_ids for c in alphabet]))[:, first : first + length]
    logits = torch.full((length, len(alphabet)), 1 / len(alphabet), dtype=torch.float64, requires_grad=True)
    path, best, text = [], 0.0, ""

    def answer(choice: Tensor) -> Tensor:
        chosen = torch.einsum("lc,cld->ld", choice.float(), letters)
        vectors = torch.cat([table(line)[0, :first], chosen, table(line)[0, first + length :]])[None]
        hook = table.register_forward_hook(lambda *_: vectors)
        try:
            return 1 / away(states, model.text_encoder(line).last_hidden_state, mask)
        finally:
            hook.remove()

    for _ in range(iterations):
        path.append(logits.detach().clone())
        uniform = (draws.integers(2**53, samples, length, len(alphabet)).double() + 0.5) / 2**53
        kept: list[tuple[float, Tensor]] = []
        for noise in -torch.log(-torch.log(uniform)):
            soft = ((logits + noise) / tau).softmax(-1)
            hard = one_hot(soft.argmax(-1), len(alphabet)) - soft.detach() + soft
            value = answer(hard.detach()).item()
            if value >= best:
                best, text = value, "".join(alphabet[c] for c in hard.argmax(-1))
            if all(value != other for other, _ in kept):
                kept = sorted([*kept, (value, hard)], key=lambda both: -both[0])[:top]
        (gradient,) = torch.autograd.grad(answer(kept[-1][1]), logits)
        logits = (logits.detach() + gradient.sign() / iterations**0.5).requires_grad_()
    return text, path


def masks(model: Model, sentences: Sequence[str], phrase: str, more_than: float) -> Tensor:
    """The targeted mask as votes, "n d"."""
    votes = torch.zeros(())
    for text in sentences:
        moved = encode(model, [text.replace(phrase, "")])[0] - encode(model, [text])[0]
        votes = votes + (moved > 0).float() - (moved < 0).float()
    return (votes.abs() > more_than).float()
