"""STEREO with copies of the network for the teachers, one prediction a call, the whole embedding table trained and restored."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.data import Concept, Images
from palimpsest.methods.stereo import stratified
from palimpsest.types import Model
from plain import ddim, known, latent, levels, noise, noisy, said

DEFAULTS: dict[str, Any] = {
    "rounds": 4, "eta": 0.0, "ste_steps": 200, "ste_lr": 5e-6, "invert_steps": 3000, "invert_lr": 5e-3, "invert_batch": 1, "w_pos": 1.0,
    "w_neg": 3.0, "away": "all", "anchors": 1, "steps": 200, "lr": 2e-5, "batch": 1, "sampler_steps": 50, "guidance": 3.0,
    "latent_alignment": "legacy", "layers": "noxattn", "start_from": "word",
}  # fmt: skip
FILLER = "object"  # a word of one token, in no template: where a learned word stands


class Network:
    """The model with room for the learned words in its tokenizer's ids, from `first` on."""

    def __init__(self, model: Model) -> None:
        self.model, self.unet, self.text_encoder = model, deepcopy(model.unet), deepcopy(model.text_encoder)
        self.first = len(model.tokenizer)

    def encode(self, text: str, word: int | None = None) -> Tensor:
        """The context of a text, a learned word in place of {}."""
        tokenizer, length = self.model.tokenizer, self.model.tokenizer.model_max_length
        ids = tokenizer(text.format(FILLER), padding="max_length", max_length=length, return_tensors="pt").input_ids
        if word is not None:
            ids[ids == tokenizer(FILLER, add_special_tokens=False).input_ids[0]] = self.first + word
        return self.text_encoder(ids).last_hidden_state

    def add_word(self, initialiser: str, start_from: str) -> None:
        old, tokenizer = self.text_encoder.get_input_embeddings().weight, self.model.tokenizer
        (start,) = tokenizer(initialiser, add_special_tokens=False).input_ids if start_from == "word" else [
            tokenizer.convert_tokens_to_ids(initialiser)
        ]  # fmt: skip
        self.text_encoder.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat([old, old[[start]]]).detach()))

    def erase(
        self, text: Callable[[int, int], Tensor], goal: Callable[..., Tensor], settings: dict[str, Any], steps: int, lr: float,
        draws: torch.Generator,
    ) -> None:  # fmt: skip
        """Steps of erasing; `text(step, row)` is shown, `goal(teacher, x, t, step, row)` wanted."""
        unet, teacher, batch, length = self.unet, deepcopy(self.unet), settings["batch"], settings["sampler_steps"]
        part, inside = {"noxattn": ("attn2", False), "xattn": ("attn2", True), "selfattn": ("attn1", True), "full": ("", True)}[
            settings["layers"]
        ]
        layers = [m for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and (part in n) == inside]
        weights = [p.requires_grad_() for layer in layers for p in layer.parameters()]
        descent, visited = torch.optim.AdamW(weights, lr=lr), levels(length)
        for step in range(steps):
            until = int(torch.randint(1, length - 1, (1,), generator=draws))
            descent.zero_grad()
            for row, x in enumerate(noise(self.model, batch, draws).split(1)):
                c = text(step, row)
                x = ddim(self.model, unet, x, c, self.encode(""), visited[: until + 1], settings["guidance"])
                t = visited[until] + (1000 // length - 1 if settings["latent_alignment"] == "legacy" else 0)
                with torch.no_grad():
                    wanted = goal(teacher, x, t, step, row)
                ((said(unet, x, t, c) - wanted).pow(2).mean() / batch).backward()
            descent.step()
        unet.requires_grad_(False)

    def attack(self, pixels: Tensor, templates: list[str], word: int, settings: dict[str, Any], draws: torch.Generator) -> None:
        """Steps of textual inversion of the word that was added last."""
        table = self.text_encoder.get_input_embeddings().weight.requires_grad_()
        kept, batch = table.detach().clone(), settings["invert_batch"]
        descent = torch.optim.AdamW([table], lr=settings["invert_lr"])
        for _ in range(settings["invert_steps"]):
            mirrored = torch.randint(2, (batch,), generator=draws)
            rows = torch.randint(len(pixels), (batch,), generator=draws)
            spread, eps = (noise(self.model, batch, draws) for _ in range(2))
            times = torch.randint(999, (batch,), generator=draws).tolist()
            picked = torch.randint(len(templates), (batch,), generator=draws)
            descent.zero_grad()
            for n, t in enumerate(times):
                picture = pixels[[int(rows[n])]]
                z = latent(self.model, picture.flip(-1) if mirrored[n] else picture, spread[[n]])
                guess = said(self.unet, noisy(self.model, z, t, eps[[n]]), t, self.encode(templates[picked[n]], word))
                ((guess - eps[[n]]).pow(2).mean() / batch).backward()
            descent.step()
            with torch.no_grad():
                table[: self.first + word] = kept[: self.first + word]
        table.requires_grad_(False)


def search(model: Model, concept: Concept, images: Images, settings: dict[str, Any], seed: int) -> Network:
    """STE: a network with the learned words."""
    searched, pixels = Network(model), images.only("pool").pixels()
    share = len(pixels) // settings["rounds"]
    for k in range(settings["rounds"]):

        def shown(*_: int) -> Tensor:
            return searched.encode(concept.word) if k == 0 else searched.encode("{}", k - 1)

        def steered(teacher: nn.Module, x: Tensor, t: int, *_: int) -> Tensor:
            e_0 = said(teacher, x, t, searched.encode(""))
            return e_0 - settings["eta"] * (said(teacher, x, t, shown()) - e_0) if settings["eta"] else e_0

        searched.erase(shown, steered, settings, settings["ste_steps"], settings["ste_lr"], torch.Generator().manual_seed(seed))
        part = pixels[k * share : (k + 1) * share]
        searched.add_word(concept.initialiser, settings["start_from"])
        searched.attack(part, list(concept.texts["templates"]), k, settings, torch.Generator().manual_seed(seed))
    return searched


def both(model: Model, concept: Concept, images: Images, given: dict[str, Any], seed: int) -> tuple[Network, Tensor]:
    """REO's network and the learned words, "k d"."""
    settings, scenes = known(DEFAULTS, given), concept.texts["pool"]
    searched, final = search(model, concept, images, settings, seed), Network(model)
    final.text_encoder = searched.text_encoder  # the words are all that stays
    steps, batch, anchors = (settings[name] for name in ("steps", "batch", "anchors"))
    draws, count = torch.Generator().manual_seed(seed), 1 + settings["rounds"]
    shown = stratified(count, steps * batch, draws).tolist()
    beside = stratified(len(scenes), steps * batch * anchors, draws).tolist()

    def erased(number: int) -> Tensor:
        return final.encode(concept.word) if number == 0 else final.encode("{}", number - 1)

    def composed(teacher: nn.Module, x: Tensor, t: int, step: int, row: int) -> Tensor:
        u = said(teacher, x, t, final.encode(""))
        picked = [scenes[beside[(step * anchors + n) * batch + row]] for n in range(anchors)]
        toward = sum(said(teacher, x, t, final.encode(scene)) - u for scene in picked) / anchors
        turned = range(count) if settings["away"] == "all" else [shown[step * batch + row]]
        away = sum(said(teacher, x, t, erased(number)) - u for number in turned) / len(turned)
        return u + settings["w_pos"] * toward - settings["w_neg"] * away

    final.erase(lambda step, row: erased(shown[step * batch + row]), composed, settings, steps, settings["lr"], draws)
    return final, searched.text_encoder.get_input_embeddings().weight[final.first :]


def erase(model: Model, concept: Concept, images: Images, *, seed: int, **settings: Any) -> dict[str, Tensor]:
    """REO's weights; `settings` as in `DEFAULTS`."""
    final, _ = both(model, concept, images, settings, seed)
    return {f"unet.{name}": p.detach() for name, p in final.unet.named_parameters()}
