"""CCE against its released form, written out in plain loops, and what it promises of each objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TOP, random_model
from diffusers import FlowMatchEulerDiscreteScheduler
from plain import cce as plain_cce
from torch import Tensor

from palimpsest import data, diffusion, edits, lists, resume
from palimpsest.attacks import cce
from palimpsest.draws import Seeded
from palimpsest.methods import sld
from palimpsest.optimise import descend
from palimpsest.types import Model

SMALL: dict[str, Any] = {"steps": 3, "batch": 2, "path_steps": 2, "path_batch": 2, "path_span": 30, "path_levels": 3}
SAFE = {"scale": 20.0, "threshold": 0.05, "momentum": 0.5, "beta": 0.7}  # soft enough that both sides of every bound occur
TEXT = "a castle"


def guarded(model: Model, warmup: int = 0) -> Model:
    return edits.apply(model, edits.Erasure("guidance", guidance={"text": TEXT, "warmup": warmup, **SAFE}))


def negative(model: Model) -> Model:
    """Pictures are drawn with a negative prompt in place of the empty text."""
    turned = diffusion.encode(model, [TEXT])
    return model._replace(guide=lambda text, _, scale: diffusion.guided(text, turned, scale))


MODELS: dict[str, tuple[Callable[[Model], Model], Any]] = {
    "noise": (lambda model: model, None), "guidance": (negative, (TEXT, None)), "path": (guarded, (TEXT, {"warmup": 0, **SAFE})),
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("noise", {}),
    "weights, several vectors": ("noise", {"vectors": 3}),
    "weights, I2P": ("noise", {"captions": "prompts"}),
    "negative prompt": ("guidance", {}),
    "negative prompt, I2P": ("guidance", {"captions": "prompts", "guidance": 4.0}),
    "SLD": ("path", {}),
    "SLD, I2P": ("path", {"captions": "prompts", "vectors": 2}),
    "SLD, warm-up": ("path", {"warmup": 50}),
}


def learned(model: Model, concept: Any, images: Any, plain: Any, **settings: Any) -> data.Prompts:
    return cce.attack(model, concept, images, **{"original": random_model, "plain": plain, "seed": 3, **SMALL, **settings})


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_whole_table_trained_and_restored(case: str, double: None, concept: Any, images: Any, plain: Any) -> None:
    """One picture at a time, encoded when it is needed, with a graph of everything: the same trajectory."""
    objective, settings = CASES[case]
    erase, erased = MODELS[objective]
    if "warmup" in settings:  # at most 25 of 50 steps, so that paths have levels on either side
        erase, erased = lambda model: guarded(model, 25), (TEXT, {"warmup": 25, **SAFE})
    gradients: list[Tensor] = []
    vectors, losses = plain_cce.learn(
        random_model(), concept, images, seed=3, erased=erased, objective=objective, look=lambda grad: gradients.append(grad.clone()),
        **SMALL | settings,
    )  # fmt: skip
    made = learned(erase(random_model()), concept, images, plain, **settings)
    torch.testing.assert_close(made.vectors["concept"], vectors, atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.tensor([row["loss"] for row in made.log]), torch.tensor(losses), atol=1e-9, rtol=1e-9)
    others = [grad[: -settings.get("vectors", 1)] for grad in gradients]
    assert all(grad.abs().max() > 1e-9 for grad in others), "other rows have gradients, which make no difference"


@pytest.mark.parametrize("objective", MODELS)
def test_the_objective_fits_the_guidance(objective: str, tiny: Model, concept: Any, images: Any, plain: Any) -> None:
    model = MODELS[objective][0](tiny)
    assert cce.fitting(model, 7.5) == objective
    found = learned(model, concept, images, plain)
    named = learned(model, concept, images, plain, objective=objective)
    assert found.vectors["concept"].equal(named.vectors["concept"]) and found.log == named.log
    if objective != "noise":
        other = learned(model, concept, images, plain, objective="noise")
        bare = learned(random_model(), concept, images, plain)
        assert other.vectors["concept"].equal(bare.vectors["concept"]), "the objective of weights does not see the guidance"
        assert not other.vectors["concept"].equal(found.vectors["concept"])


def test_a_guidance_that_is_off_is_attacked_as_weights_are(tiny: Model, concept: Any, images: Any) -> None:
    off = edits.apply(tiny, sld.erase(tiny, concept, images, seed=0, scale=0.0))
    assert cce.fitting(off, 7.5) == "noise"


def test_the_word_that_the_guidance_turns_from_has_no_loss_without_one(double: None, tiny: Model, concept: Any, images: Any) -> None:
    """|| u + s (c - u) - g(*) || is zero where the guidance is ordinary and the word is c."""
    x, eps = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    null, word = diffusion.encode(tiny, [""]), diffusion.encode(tiny, [concept.word, concept.word])
    way = cce.stateless(tiny.guide(word, null, 7.5))
    path = torch.tensor([[800, 700], [600, 500]])
    reached = cce.steered(tiny, x, eps, path, way, word, None)
    wanted = diffusion.predict(tiny, diffusion.noised(tiny, x, path[-1], eps), path[-1], diffusion.guided(word, null, 7.5))
    torch.testing.assert_close(reached, wanted, atol=1e-12, rtol=0)


def test_rows_of_a_path_do_not_see_one_another(double: None, tiny: Model) -> None:
    x, eps = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    path, model = cce.levels(Seeded(1), 3, against(200, 5)), guarded(tiny, 25)
    null, word = diffusion.encode(model, [""]), diffusion.encode(model, ["a tree", "a dog", "a car"])

    def reached(rows: slice) -> Tensor:
        way = model.guide(word[rows], null, 7.5)
        return cce.steered(model, x[rows], eps[rows], path[:, rows], way, way.texts[1], 50)

    torch.testing.assert_close(torch.cat([reached(slice(n, n + 1)) for n in range(3)]), reached(slice(0, 3)), atol=1e-12, rtol=0)


def test_a_path_keeps_no_graph_of_each_level(tiny: Model) -> None:
    x, eps = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    model, word = guarded(tiny, 0), diffusion.encode(tiny, ["a church", "a church"]).requires_grad_()
    way = model.guide(word, diffusion.encode(tiny, [""]), 7.5)

    def kept(run: Callable[[], Any]) -> int:
        """Numbers that the graph holds."""
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (sizes.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
            run()
        return sum(sizes)

    once = kept(lambda: diffusion.predictions(model, x, torch.tensor([500, 500]), [word]))
    path = torch.arange(560, 500, -10)[:, None].expand(-1, 2)
    assert kept(lambda: cce.steered(model, x, eps, path, way, word, None)) < once / 4


def against(span: int, count: int) -> cce.Against:
    return cce.Against("path", 7.5, None, span, count, None)


def test_levels_of_a_path_fall_within_its_span() -> None:
    path = cce.levels(Seeded(0), 200, against(90, 35))
    assert path.shape == (35, 200) and bool((path.diff(dim=0) < 0).all())
    assert bool((path[0] - path[-1] < 90).all()) and path.min() >= 0 and path.max() < 999
    single = cce.levels(Seeded(0), 4000, against(90, 1))
    assert single.shape == (1, 4000) and single.min() < 10 and single.max() > 990


def test_cached_moments_are_those_of_the_vae(tiny: Model, images: Any) -> None:
    pixels = images.only("pool").pixels()
    seen = diffusion.both_ways(tiny, pixels)
    with torch.no_grad():
        for way, shown in enumerate((pixels, pixels.flip(-1))):
            spread = tiny.vae.encode(shown).latent_dist
            mean, variance = seen[way].chunk(2, dim=1)
            torch.testing.assert_close(mean, spread.mean, atol=1e-6, rtol=0)
            torch.testing.assert_close((variance.clamp(-30, 20) / 2).exp(), spread.std, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name, count, distinct", [("object", 27, 27), ("style", 19, 17), ("person", 2, 2), ("person-sld", 2, 2)])
def test_published_templates(name: str, count: int, distinct: int, concept: Any) -> None:
    lines = cce.listed(concept, name)
    assert len(lines) == count and len(set(lines)) == distinct and all(line.count("{}") == 1 for line in lines)


def test_what_is_asked(concept: Any, plain: data.Prompts) -> None:
    rows = cce.asked(plain, concept, ["a photo of {}"], "replaced")
    wanted = plain.units().rows
    assert [row.text for row in rows] == [row.text.replace("church", "<concept>") for row in wanted]
    assert [(row.unit, row.seed, row.stage) for row in rows] == [(row.unit, row.seed, 1) for row in wanted]
    assert [row.text for row in cce.asked(plain, concept, [], "prefixed")] == [f"<concept> {row.text}" for row in wanted]
    assert {row.text for row in cce.asked(plain, concept, ["a photo of {}"], "templates")} == {"a photo of <concept>"}
    assert cce.renamed("two people, oil on canvas", concept) == "<concept> two people, oil on canvas", "a prompt that does not name it"
    assert cce.renamed("Churches by a CHURCH, a churchyard", concept) == "<concept> by a <concept>, a churchyard"


class Replayed:
    """A stream that says again what another drew, in its order, and has nothing to draw from."""

    def __init__(self, heard: list[Any]) -> None:
        self.heard = iter(heard)

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        def told(*given: Any) -> Tensor:
            asked, made = next(self.heard)
            assert asked == (name, *given)
            return made

        return told


class Recorded(Seeded):
    """A stream that tells its draws."""

    def __init__(self, seed: int, heard: list[Any]) -> None:
        super().__init__(seed)
        self.heard = heard

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in ("noise", "integers", "order"):
            return value

        def told(*given: Any) -> Tensor:
            self.heard.append(((name, *given), made := value(*given)))
            return made

        return told


@pytest.mark.parametrize("objective", MODELS)
def test_a_recorded_stream_can_be_replayed(objective: str, tiny: Model, concept: Any, images: Any, plain: Any) -> None:
    model, heard = MODELS[objective][0](tiny), list[Any]()
    whole = learned(model, concept, images, plain, draws=lambda seed: Recorded(seed, heard))
    assert {name for (name, *_), _ in heard} == {"noise", "integers"} | ({"order"} if objective == "path" else set())
    again = learned(model, concept, images, plain, draws=lambda _: Replayed(heard), seed=4)
    own = learned(model, concept, images, plain)
    assert whole.vectors["concept"].equal(own.vectors["concept"]) and again.vectors["concept"].equal(own.vectors["concept"])


def test_a_prompt_without_room_for_the_word_is_asked_plainly(
    tiny: Model, concept: Any, images: Any, plain: data.Prompts, capsys: pytest.CaptureFixture[str]
) -> None:
    long = plain.units().rows[1]._replace(text="a " * 22 + "church", unit=-1)
    rows = [long if n == 1 else row for n, row in enumerate(plain.rows)]
    found = learned(tiny, concept, images, data.Prompts(rows))
    assert [(row.unit, row.stage) for row in found.rows] == [(0, 1), (1, 0), (2, 1), (3, 1)] and found.rows[1].text == long.text
    assert "4 prompts, 3 of them short enough; the others are asked plainly" in capsys.readouterr().err
    with pytest.raises(ValueError, match="vectors: a word of 1 does not fit into 24 tokens beside a caption, or any prompt; write fewer"):
        learned(tiny, concept, images, data.Prompts([long]))
    with pytest.raises(ValueError, match="prompts: none of the plain prompts should show the concept"):
        learned(tiny, concept, images, data.Prompts([]))


@pytest.mark.parametrize("settings, said", [
    ({"vectors": 22}, "does not fit into 24 tokens"),
    ({"initialiser": "a word of several tokens"}, "starts from a word of one "),
    ({"path_levels": 31}, "write 2 or more, at most `path_span`"),
])  # fmt: skip
def test_bad_settings_are_named_before_anything_is_trained(
    settings: dict, said: str, tiny: Model, concept: Any, images: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cce, "both_ways", lambda *_: pytest.fail("the VAE was asked"))
    with pytest.raises(ValueError, match=said) as error:
        learned(tiny, concept, images, plain, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("said", ["epsilon", "v_prediction", "velocity"])
def test_the_error_is_of_what_the_network_says(said: str, double: None, tiny: Model) -> None:
    if said == "velocity":
        tiny = tiny._replace(scheduler=FlowMatchEulerDiscreteScheduler())
    else:
        tiny.scheduler.register_to_config(prediction_type=said)
    x, eps, out, t = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.tensor([10, 700])
    picture, spread = diffusion.rates(tiny, t)
    wanted = {"epsilon": eps, "v_prediction": picture * eps - spread * x, "velocity": eps - x}[said]
    made = cce.squared(tiny, eps - diffusion.epsilon(tiny, diffusion.noised(tiny, x, t, eps), t, out), t)
    torch.testing.assert_close(made, (wanted - out).pow(2).mean())


def test_what_is_learned_from(tiny: Model, concept: Any, images: data.Images, plain: Any) -> None:
    captioned = [row._replace(role="captioned") for row in reversed(images.only("pool").rows)]
    both = replace(images, rows=[*images.rows, *captioned])
    first, same, other = (
        learned(tiny, concept, some, plain, learn_from=role, pictures=2).vectors["concept"]
        for some, role in ((images, "captioned"), (both, "pool"), (both, "captioned"))
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_nothing_to_learn_from(tiny: Model, concept: Any, images: data.Images, plain: Any) -> None:
    with pytest.raises(ValueError, match="none of role 'pool'"):
        learned(tiny, concept, images.only("nothing"), plain)
    with pytest.raises(ValueError, match="texts has no 'templates'"):
        learned(tiny, replace(concept, texts={}), images, plain)
    assert learned(tiny, replace(concept, texts={}), images, plain, templates="object").rows


@pytest.mark.parametrize("objective", ["noise", "path"])
def test_killed_and_resumed_it_gives_the_same_bytes(
    objective: str, concept: Any, images: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[objective][0](random_model())
    whole = learned(model, concept, images, plain)
    step = torch.optim.AdamW.step
    taken: list[int] = []

    def killed(self: Any, *given: Any) -> Any:
        taken.append(1)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", killed)
        patch.setattr("palimpsest.tokens.descend", lambda *given, **more: descend(*given, **more, pause=0.0))
        with pytest.raises(KeyboardInterrupt), resume.resumable(tmp_path):
            learned(model, concept, images, plain)
    with resume.resumable(tmp_path):
        again = learned(model, concept, images, plain)
    assert again.vectors["concept"].equal(whole.vectors["concept"]) and again.log == whole.log


@pytest.mark.parametrize("name", ["van_gogh", "crayon", "church", "french_horn", "parachute"])
def test_no_word_of_the_concept_is_left_in_what_is_asked(name: str) -> None:
    fields = {**yaml.safe_load((TOP / f"data/concepts/{name}.yaml").read_text()), "name": name, "classes": []}
    fields.pop("detectors")
    about, frozen = data.Concept.of(fields), yaml.safe_load((TOP / f"data/prompts/{name}.yaml").read_text())
    said = [cce.renamed(text, about) for key in ("captions", "phrases", "scenes") for text in frozen[key]]
    assert len(said) >= 360 and [text for text in said if lists.says(text, about.words)] == []


def test_presets_bind(concept: Any, images: Any, plain: Any, tiny: Model) -> None:
    presets = yaml.safe_load((TOP / "data/presets/cce.yaml").read_text())
    assert {"official", "darkminer"} <= set(presets)
    for preset in presets.values():
        for extra in ({}, *preset.get("for", {}).values()):
            made = learned(tiny, concept, images, plain, **{**preset.get("settings", {}), **extra, **SMALL, "initialiser": "object"})
            assert len(made.log) == 3
