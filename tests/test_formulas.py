"""Each formula against the equation written out, term by term, in plain loops."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest import closed_form, diffusion, edits, tokens
from palimpsest.methods import dm2, esd, uce
from palimpsest.report import measures
from palimpsest.types import Model


def said(model: Model, x: Tensor, t: int, text: Tensor) -> Tensor:
    return model.unet(x, t, text.expand(len(x), -1, -1)).sample


def test_predict_is_the_weighted_sum(tiny: Model) -> None:
    x, texts = torch.randn(2, 4, 16, 16), [torch.randn(1, n, 32) for n in (24, 24, 5)]
    weights = (1.5, -0.7, 0.2)
    wanted = sum(w * said(tiny, x, 321, text) for w, text in zip(weights, texts, strict=True))
    made = diffusion.predict(tiny, x, 321, list(zip(texts, weights, strict=True)))
    torch.testing.assert_close(made, wanted, atol=2e-5, rtol=1e-4)  # the short text is padded and masked


def test_guided_is_classifier_free_guidance(tiny: Model) -> None:
    x, text, null = torch.randn(2, 4, 16, 16), torch.randn(1, 24, 32), torch.randn(1, 24, 32)
    e, e0 = said(tiny, x, 10, text), said(tiny, x, 10, null)
    torch.testing.assert_close(diffusion.predict(tiny, x, 10, diffusion.guided(text, null, 7.5)), e0 + 7.5 * (e - e0), atol=1e-4, rtol=1e-4)


def test_noised_is_equation_4_of_ddpm(tiny: Model) -> None:
    x, eps, t = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), torch.tensor([0, 500, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    for n, step in enumerate(t.tolist()):
        abar = math.prod((1 - betas[: step + 1]).tolist())
        wanted = math.sqrt(abar) * x[n] + math.sqrt(1 - abar) * eps[n]
        torch.testing.assert_close(diffusion.noised(tiny, x, t, eps)[n], wanted, atol=1e-5, rtol=1e-4)


def test_v_prediction_is_mapped_to_the_noise(tiny: Model) -> None:
    x, eps = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    t = torch.tensor([100, 800])
    a = diffusion.level(tiny, t)
    v = a.sqrt() * eps - (1 - a).sqrt() * x
    tiny.scheduler.register_to_config(prediction_type="v_prediction")
    torch.testing.assert_close(diffusion.epsilon(tiny, diffusion.noised(tiny, x, t, eps), t, v), eps, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form, eta", [("2023", 1.0), ("2025", 2.0), ("alt", 2.0)])
def test_esd_target_is_equation_6(tiny: Model, form: str, eta: float) -> None:
    x, text, null = torch.randn(2, 4, 16, 16), torch.randn(1, 24, 32), torch.randn(1, 24, 32)
    e, e0 = said(tiny, x, 10, text), said(tiny, x, 10, null)
    start = e if esd.FORMS[form].start == "concept" else e0
    mix = esd.target(text, null, text if esd.FORMS[form].start == "concept" else null, eta)
    torch.testing.assert_close(diffusion.predict(tiny, x, 10, mix), start - eta * (e - e0), atol=1e-4, rtol=1e-4)


def test_esd_2025_with_eta_2_has_the_target_of_2023_with_eta_1(tiny: Model) -> None:
    x, text, null = torch.randn(2, 4, 16, 16), torch.randn(1, 24, 32), torch.randn(1, 24, 32)
    made = [diffusion.predict(tiny, x, 10, esd.target(text, null, start, eta)) for start, eta in ((null, 1.0), (text, 2.0))]
    torch.testing.assert_close(*made, atol=1e-5, rtol=1e-4)


def test_esd_variants_train_what_they_say(tiny: Model) -> None:
    for form in esd.FORMS:
        chosen = {variant: set(edits.parameters(tiny, esd.where(variant, form))) for variant in ("x", "x-strict", "u", "full")}
        assert all("attn2" in name for name in chosen["x"]) and all(".to_k." in n or ".to_v." in n for n in chosen["x-strict"])
        assert not any("attn2" in name for name in chosen["u"]) and chosen["u"] < chosen["full"]
        assert any("norm" in name for name in chosen["u"]) == (form == "2023")
        assert any("time_embedding" in name for name in chosen["u"]) == (form != "2023")


def esd_visits(form: str, alignment: str, ascending: list[int], draws: torch.Generator) -> tuple[list[int], int]:
    """The levels at which x_t is denoised and the one that it is said to have, in the loops of the official programs.

    2023: `train-esd.py` and its DDIMSampler, which leaves the noisiest level out (t_start -1) and breaks where index + 1 is k. alt:
    `alt_esd_diffusers.py`, which looks the label up in a schedule of 1000 levels, 1000 to 1.
    """
    steps = len(ascending)
    k = int(torch.randint(*((1, steps - 1) if form == "alt" else (0, steps)), (1,), generator=draws))
    if alignment == "exact" or form == "2025":
        return ascending[::-1][:k], ascending[::-1][k]
    if form == "alt":
        return ascending[::-1][:k], list(range(1000, 0, -1))[int(k / steps * 1000)]
    visited = [t for index, t in enumerate(ascending[:-1]) if index + 1 >= k][::-1]
    return visited, int(torch.randint(round(k / steps * 1000), round((k + 1) / steps * 1000), (1,), generator=draws))


@pytest.mark.parametrize("alignment", ["exact", "legacy"])
@pytest.mark.parametrize("form", list(esd.FORMS))
def test_esd_is_its_program_written_out(form: Any, alignment: Any, tiny: Model, concept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esd, "noise", lambda *how: diffusion.noise(*how).double())
    tiny.unet.double(), tiny.text_encoder.double()
    how = {"form": form, "latent_alignment": alignment, "variant": "x", "eta": 1.5, "steps": 6, "lr": 1e-3, "sampler_steps": 5}
    made = esd.erase(tiny, concept, None, seed=4, guidance=2.0, **how)  # type: ignore[arg-type]
    draws, abar = torch.Generator().manual_seed(4), tiny.scheduler.alphas_cumprod
    text, null = (diffusion.encode(tiny, [words]) for words in ("church", ""))
    student = tiny._replace(unet=copy.deepcopy(tiny.unet))
    weights = {f"unet.{name}": p.requires_grad_() for name, p in student.unet.named_parameters() if "attn2" in name}
    adam = torch.optim.Adam(weights.values(), lr=1e-3)
    for _ in range(6):
        torch.randint(1, (1,), generator=draws)  # which of the words
        visited, label = esd_visits(form, alignment, [1, 201, 401, 601, 801], draws)
        x = diffusion.noise(tiny, draws, 1).double()
        with torch.no_grad():
            for t in visited:
                e, e0 = (said(tiny if form == "2025" else student, x, t, c) for c in (text, null))
                e, a, b = e0 + 2.0 * (e - e0), abar[t], abar[max(t - 200, 0)]
                x = b.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
            e, e0 = said(tiny, x, label, text), said(tiny, x, label, null)
        adam.zero_grad()
        (said(student, x, label, text) - ((e if form == "2025" else e0) - 1.5 * (e - e0))).pow(2).mean().backward()
        adam.step()
    torch.testing.assert_close(dict(made.tensors), {name: p.detach() for name, p in weights.items()}, atol=1e-6, rtol=0)  # moved by 6e-3


def test_esd_legacy_stops_at_steps_2_to_50() -> None:
    draws = torch.Generator().manual_seed(0)
    made = [esd.stop("2023", "legacy", 50, draws) for _ in range(20000)]
    assert {until for until, _ in made} == set(range(2, 51)) and {t for _, t in made} == set(range(1000))
    for until, t in made:
        level = 981 - 20 * until  # of x_t; -19 is the end of the schedule, where k is 1 or, with a label below 20, 0
        assert t is not None and (39 <= t - level <= 58 or (until == 50 and t < 20))


@pytest.mark.parametrize("form", ["paper", "2025"])
@pytest.mark.parametrize("target", [" ", "a tree", ""])
def test_uce_is_equation_7_layer_by_layer(tiny: Model, concept: Any, images: Any, form: Any, target: str) -> None:
    retain = ["a castle", "a dog in the snow"]
    made = uce.erase(tiny, concept, images, seed=0, form=form, target=target, retain=retain, preserve_scale=0.3, lamb=0.4, erase_scale=0.9)
    new = edits.weights(tiny, made)
    states = {text: diffusion.encode(tiny, [text])[0].double() for text in ("church", target, *retain)}
    for name, weight in edits.parameters(tiny, closed_form.WHERE).items():
        w = weight.detach().double()
        left, right = 0.4 * w, 0.4 * torch.eye(32, dtype=torch.float64)
        first, other = closed_form.last_word(tiny, "church"), closed_form.last_word(tiny, target)
        for step in range(24 if form == "paper" else 1):
            if max(first, other) + step < 24:
                c, c_new = states["church"][first + step], states[target][other + step]
                left, right = left + 0.9 * torch.outer(w @ c_new, c), right + 0.9 * torch.outer(c, c)
        for text in retain:
            places = range(24) if form == "paper" else [closed_form.last_word(tiny, text)]
            for place in places:
                c = states[text][place]
                left, right = left + 0.3 * torch.outer(w @ c, c), right + 0.3 * torch.outer(c, c)
        torch.testing.assert_close(new[name].double(), left @ torch.linalg.inv(right), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "form, kind, plain, written",
    [
        ("paper", "style", {}, {"target": " ", "retain": [""], "preserve_scale": 1.0}),
        ("paper", "object", {"retain": ["", "a castle"]}, {"target": " ", "preserve_scale": 0.5}),
        ("paper", "object", {"retain": ["a castle"] * 20, "target": ""}, {"target": " ", "preserve_scale": 0.1}),
        ("2025", "style", {"retain": ["a castle"]}, {"target": "art", "preserve_scale": 1.0}),
        ("2025", "object", {}, {"target": "", "retain": []}),
    ],
)
def test_uce_defaults_are_the_official_ones(form: Any, kind: Any, plain: Any, written: Any, tiny: Model, concept: Any) -> None:
    concept, settings = replace(concept, kind=kind), (plain, plain | written)
    made = [uce.erase(tiny, concept, None, seed=0, form=form, **some) for some in settings]  # type: ignore[arg-type]
    assert torch.equal(made[0].tensors["right"], made[1].tensors["right"])
    assert not torch.allclose(made[0].tensors["right"], torch.eye(32), atol=1e-3)


@pytest.mark.parametrize(
    "settings", [{"form": "2025", "lamb": 0.0}, {"form": "2025", "lamb": 0.0, "retain": ["a dog", "a cat"]}, {"lamb": -0.5}], ids=str
)
def test_uce_without_one_solution_is_refused(tiny: Model, concept: Any, settings: Any) -> None:
    with pytest.raises(ValueError, match=f"^uce: lamb is {settings['lamb']}, .* make it above 0"):
        uce.erase(tiny, concept, None, seed=0, **settings)  # type: ignore[arg-type]


def test_uce_takes_lamb_0_of_enough_texts(tiny: Model, concept: Any) -> None:
    assert uce.erase(tiny, concept, None, seed=0, lamb=0.0, retain=["", "a castle"]).tensors["right"].isfinite().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("lists", [{}, {"train": ()}])
@pytest.mark.parametrize("retain", [[], None])
def test_uce_without_texts_to_train_on_says_so(tiny: Model, concept: Any, lists: Any, retain: Any) -> None:
    with pytest.raises(ValueError, match=r"^uce: texts is 'train', but church has none; run gen_prompts or set texts: words$"):
        uce.erase(tiny, replace(concept, texts=lists), None, seed=0, texts="train", retain=retain)  # type: ignore[arg-type]


def test_uce_with_the_word_itself_as_target_changes_nothing(tiny: Model, concept: Any, images: Any) -> None:
    made = uce.erase(tiny, concept, images, seed=0, target="church")
    torch.testing.assert_close(made.tensors["right"], torch.eye(32), atol=1e-6, rtol=0)


def test_uce_equals_mapping_every_text(tiny: Model, concept: Any, images: Any) -> None:
    right = uce.erase(tiny, concept, images, seed=0).tensors["right"]
    x, text = torch.randn(1, 4, 16, 16), diffusion.encode(tiny, ["a church in the snow"])
    mapped = said(tiny, x, 500, text @ right.T)
    edits.apply(tiny, uce.erase(tiny, concept, images, seed=0))
    torch.testing.assert_close(said(tiny, x, 500, text), mapped, atol=1e-5, rtol=1e-4)


def test_dm2_squared_error_is_the_norm_of_the_paper() -> None:
    e = torch.randn(3, 4, 16, 16)
    by_hand = sum(float(value) ** 2 for value in e.flatten()) / 3
    assert dm2.squared("sum")(e).item() == pytest.approx(by_hand, rel=1e-5)
    assert dm2.squared("mean")(e).item() == pytest.approx(by_hand / (4 * 16 * 16), rel=1e-5)


def test_dm2_zero_context_does_not_see_value_factors_of_cross_attention(tiny: Model) -> None:
    """to_k and to_v have no bias, so under 0c they give nothing whatever their weights (specs, 1.2)."""
    x, zero = torch.randn(1, 4, 16, 16), torch.zeros(1, 7, 32)
    before = said(tiny, x, 5, zero)
    for weight in edits.parameters(tiny, "unet.*attn2.to_v.weight").values():
        weight.data += 1.0
    assert torch.equal(before, said(tiny, x, 5, zero))
    assert not torch.equal(before, said(tiny, x, 5, zero + 1))


def test_edit_off_is_the_model_on_entry(tiny: Model) -> None:
    x, text = torch.randn(1, 4, 16, 16), torch.randn(1, 24, 32)
    before = said(tiny, x, 5, text)
    opened = {
        "dense": edits.dense(tiny, "unet.*attn2.*"),
        "lora": edits.lora(tiny, "unet.*.to_v.weight", rank=2, generator=torch.Generator().manual_seed(0)),
    }
    for kind, context in opened.items():
        with context as edit:
            assert torch.equal(before, said(tiny, x, 5, text)), kind  # nothing learned yet
            for p in edit.parameters:
                p.data += 0.1
            assert not torch.allclose(before, said(tiny, x, 5, text)), kind
            with edit.off():
                assert torch.equal(before, said(tiny, x, 5, text)), kind
            said(tiny, x, 5, text).sum().backward()
            assert all(p.grad is not None for p in edit.parameters), kind
        assert torch.equal(before, said(tiny, x, 5, text)), kind


def test_learned_words_equal_the_tokens_they_copy(tiny: Model) -> None:
    vector = tokens.vector(tiny, "church")
    torch.testing.assert_close(
        diffusion.encode(tiny, ["a <x> in the snow", "a dog"], {"x": vector}), diffusion.encode(tiny, ["a church in the snow", "a dog"])
    )


def test_rate_is_wilsons_interval() -> None:
    from scipy.stats import binomtest

    for k, n in ((0, 20), (7, 20), (20, 20), (50, 60)):
        made = measures.rate(torch.arange(n) < k)
        known = binomtest(k, n).proportion_ci(method="wilson")
        assert (made.low / 100, made.high / 100) == pytest.approx((known.low, known.high), abs=1e-6) and made.n == n


def test_frechet_is_the_matrix_square_root_form() -> None:
    from scipy.linalg import sqrtm

    torch.manual_seed(0)
    a, b = torch.randn(200, 6) @ torch.randn(6, 6), torch.randn(150, 6) @ torch.randn(6, 6) + 0.5
    s_a, s_b = (torch.cov(x.double().T) for x in (a, b))
    root = sqrtm((s_a @ s_b).numpy()).real.trace()
    wanted = (a.double().mean(0) - b.double().mean(0)).pow(2).sum() + s_a.trace() + s_b.trace() - 2 * root
    assert measures.frechet(a, b) == pytest.approx(float(wanted), rel=1e-6)
    assert measures.frechet(a, a) == pytest.approx(0, abs=1e-9)
