"""Scores: what they say beside the libraries' own functions, and the same of any number of pictures, wherever these lie."""

from __future__ import annotations

import json
import pickle
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOP, on_disk
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest import clip, data, pieces, resume, scores
from palimpsest.data import Images, Prompt, Scores
from palimpsest.files import sha256
from palimpsest.mini import render
from palimpsest.scores import clip_score, inception, lpips, q16, resnet, yolo
from palimpsest.workflow import signatures

CLIP = str(TOP / "data/mini/clip")
STYLES = {"plain": "a photo", "van gogh": "a van gogh painting"}
MINI = {
    "objects": {"of": "yolo", "settings": {"weights": str(TOP / "data/mini/judge.safetensors")}},
    "styles": {"of": "style", "settings": {"clip_model": CLIP, "styles": STYLES}},
    "clip_score": {"of": "clip_score", "settings": {"clip_model": CLIP}},
    "features": {"of": "features", "settings": {"clip_model": CLIP, "name": "FID-mini"}},
    "perceptual": {"of": "perceptual", "settings": {"clip_model": CLIP, "name": "LPIPS-mini"}},
}


@pytest.fixture(scope="module")
def rows() -> list[Prompt]:
    return [Prompt(scene.caption, n) for n, scene in enumerate(render.renders(24, seed=5).scenes)]


@pytest.fixture(scope="module")
def drawn() -> Tensor:
    """Pictures as a model draws them, "24 3 64 64" in [-1, 1]: not in steps of a byte."""
    pixels = torch.from_numpy(render.renders(24, seed=5).pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (pixels + 0.05 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


@pytest.fixture(scope="module")
def pictures(rows: list[Prompt], drawn: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Images:
    return on_disk(tmp_path_factory.mktemp("drawn") / "manifest.json", rows, list(drawn))


@pytest.fixture(scope="module")
def unedited(rows: list[Prompt], drawn: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Others of the same prompts and seeds, in another order; two are missing, one has another seed."""
    order = [n for n in torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist() if n not in (3, 17)]
    asked = [rows[n]._replace(seed=99) if n == 8 else rows[n] for n in order]
    return on_disk(tmp_path_factory.mktemp("unedited") / "manifest.json", asked, [drawn[n].flip(-1) for n in order])


@pytest.fixture
def large(rows: list[Prompt], drawn: Tensor) -> Images:
    """Three pictures of the size of none of the networks, "3 3 160 160"."""
    return Images.of(rows[:3], torch.nn.functional.interpolate(drawn[:3], (160, 160), mode="bicubic"))


def same(a: Scores, b: Scores) -> bool:
    return a.columns.keys() == b.columns.keys() and all(
        torch.equal(a.columns[name].nan_to_num(-1), b.columns[name].nan_to_num(-1)) for name in a.columns
    )


def close(a: Scores, b: Scores) -> None:
    for name, column in a.columns.items():
        torch.testing.assert_close(column, b.columns[name], rtol=1e-5, atol=1e-6, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------------------- together


def test_chunks_say_what_the_whole_says(pictures: Images, unedited: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores.together(MINI, pictures, unedited)
    monkeypatch.setattr(scores, "CHUNK", 7)
    parts = scores.together(MINI, pictures, unedited)
    close(parts, whole)
    assert parts.meaning == whole.meaning and parts.prompts == whole.prompts and whole.columns["perceptual"].isnan().sum() == 3


def test_chunks_are_whole_batches() -> None:
    """So that a network looks at the same pictures together as without them, and no bit of a recorded result moves."""
    assert scores.CHUNK % signature(Images.batches).parameters["size"].default == 0
    assert scores.CHUNK % signature(clip.images).parameters["batch"].default == 0


def test_a_picture_is_read_once_and_let_go(pictures: Images, unedited: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, seen, alive = Counter[Path](), list[weakref.ref](), list[int]()
    read = data.read

    def watched(file: Path) -> Any:
        picture = read(file)
        reads[file] += 1
        seen.append(weakref.ref(picture))
        alive.append(sum(one() is not None for one in seen))
        return picture

    monkeypatch.setattr(data, "read", watched)
    monkeypatch.setattr(scores, "CHUNK", 6)
    scores.together(MINI, pictures, unedited)
    assert set(reads.values()) == {1} and len(reads) == 24 + 21  # of the others those that have a partner
    assert 6 < max(alive) <= 2 * 6


def test_pictures_in_memory_say_what_they_say_on_disk(rows: list[Prompt], drawn: Tensor, pictures: Images, unedited: Images) -> None:
    held = Images.of(rows, drawn)
    assert torch.equal(held.pixels(), pictures.pixels()) and not torch.equal(held.pixels(), drawn)
    assert same(scores.together(MINI, held, unedited), scores.together(MINI, pictures, unedited))
    assert torch.equal(replace(held, rows=held.rows[3:5]).pixels(), pictures.pixels([3, 4]))


def test_pictures_that_no_disk_holds_are_drawn_once_and_say_the_same(
    rows: list[Prompt], drawn: Tensor, pictures: Images, unedited: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of 24 the last 20 are only listed; never more than a chunk of them is asked for, and none of them twice."""
    place, asked = {row: n for n, row in enumerate(rows)}, list[list[int]]()

    def draw(wanted: Sequence[Prompt]) -> Tensor:
        asked.append([place[row] for row in wanted])
        return drawn[asked[-1]]

    with resume.resumable(tmp_path / "work") as kept:
        pieces.pictures(
            tmp_path / "manifest.json", rows, lambda piece: drawn[:4][piece], {}, kept=kept, batch=3, roles=["none"] * 24, stored=range(4)
        )
    listed = Images.load(tmp_path / "manifest.json", draw=draw)
    assert len(list((tmp_path / "images").iterdir())) == 4 and len(listed) == 24
    monkeypatch.setattr(scores, "CHUNK", 7)
    assert same(scores.together(MINI, listed, unedited), scores.together(MINI, pictures, unedited))
    assert sorted(n for some in asked for n in some) == list(range(4, 24)) and max(map(len, asked)) <= 7
    with pytest.raises(ValueError, match="lies on no disk; it is drawn where it is scored"):
        Images.load(tmp_path / "manifest.json").pixels()


def test_a_slice_of_pictures(pictures: Images) -> None:
    assert pictures[4:9].rows == pictures.rows[4:9] and torch.equal(pictures[4:9].pixels(), pictures.pixels(range(4, 9)))
    assert torch.equal(torch.cat(list(pictures.batches(5))), pictures.pixels())
    assert [len(part) for part in pictures.batches(10)] == [10, 10, 4]


def test_distances_follow_prompt_and_seed(pictures: Images, unedited: Images) -> None:
    """And not the order; a picture without a partner has none."""
    seen = scores.distances(pictures, unedited, lambda ours, theirs: (ours - theirs.flip(-1)).abs().amax((1, 2, 3)), batch=4)
    assert seen.isnan().nonzero().flatten().tolist() == [3, 8, 17] and seen.nan_to_num(0).abs().max() == 0
    assert scores.distances(pictures, None, lambda ours, _: ours.mean((1, 2, 3))).isnan().all()


def test_a_judge_sees_what_the_score_says(pictures: Images) -> None:
    judge = scores.judge({"objects": MINI["objects"]}, {"score": "objects", "classes": ["church"], "threshold": 0.5})
    value, shown = judge(pictures)
    column = scores.together({"objects": MINI["objects"]}, pictures, None)
    assert torch.equal(value, column.columns["objects"][:, column.meaning["objects"].index("church")]) and torch.equal(shown, value > 0.5)


# --------------------------------------------------------------------------------------------------------------------------- ready


@pytest.mark.parametrize("name", signatures.registry("scores"))
def test_ready_takes_settings_of_the_score(name: str) -> None:
    asked = signature(import_module(f"palimpsest.scores.{name}").ready).parameters
    assert asked and set(asked) <= set(signatures.settings("scores", name))


NOWHERE = {
    "yolo": {"weights": "data/nowhere/judge.safetensors"},
    "nudenet": {"model": "data/nowhere/640m.onnx"},
    "q16": {"prompts": "data/nowhere/prompts.safetensors", "clip_model": CLIP},
    "resnet": {"weights": "data/nowhere/resnet50.pth"},
    "inception": {"weights": "data/nowhere/inception.pth"},
    "lpips": {"backbone": "data/nowhere/alexnet.pth"},
}


NAMELESS = bytes.fromhex(  # an onnx of one Identity, without metadata
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208014202100d"
)


def test_weights_of_another_kind_are_told_before_any_picture_is_read(tmp_path: Path) -> None:
    onnx, vectors = tmp_path / "own.onnx", tmp_path / "own.safetensors"
    onnx.write_bytes(b"damaged")
    save_file({"other": torch.zeros(2, 4)}, vectors)
    with pytest.raises(ValueError, match=r"^scores.mine: model: \S+own.onnx is no network that onnxruntime reads, or is damaged"):
        scores.ready({"mine": {"of": "nudenet", "settings": {"model": str(onnx)}}})
    onnx.write_bytes(NAMELESS)
    with pytest.raises(ValueError, match=r"^scores.mine: model: \S+own.onnx does not name its labels"):
        scores.ready({"mine": {"of": "nudenet", "settings": {"model": str(onnx)}}})
    with pytest.raises(ValueError, match=r"^scores.mine: prompts: \S+own.safetensors holds no tensor 'prompts'; "):
        scores.ready({"mine": {"of": "q16", "settings": {"prompts": str(vectors), "clip_model": CLIP}}})


@pytest.mark.parametrize("of", NOWHERE)
def test_what_is_not_there_is_told_before_any_picture_is_read(of: str) -> None:
    lost = Images([data.Picture("lost.png", "", Prompt("a church", 0))], Path("nowhere"))
    entries = {"clip_score": MINI["clip_score"], "mine": {"of": of, "settings": NOWHERE[of]}}
    with pytest.raises(ValueError, match=r"^scores.mine: data/nowhere/\S+ is not there; put it there, or name another in params.yaml$"):
        scores.together(entries, lost, None)
    with pytest.raises(ValueError, match=r"^scores.mine: data/nowhere/"):
        scores.judge({"mine": entries["mine"]}, {"score": "objects", "classes": ["church"]})


@pytest.mark.parametrize(("of", "package"), [("inception", "torch_fidelity"), ("lpips", "lpips"), ("nudenet", "nudenet")])
def test_a_package_that_is_not_there(of: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as Python does where an import must fail
    import_module(f"palimpsest.scores.{of}").load.cache_clear()
    given = {"inception": {"weights": str(tmp_path)}, "lpips": {"backbone": str(tmp_path)}, "nudenet": {}}[of]
    remedy = r"`pip install -e '\.\[(judges|metrics)\]'` brings it"
    with pytest.raises(ValueError, match=rf"^scores.mine needs the package {package}, which is not installed; {remedy}$"):
        scores.ready({"mine": {"of": of, "settings": given}})


def test_weights_of_torchvision_are_looked_for_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=rf"scores.objects: {tmp_path}/checkpoints/resnet50-11ad3fa6.pth is not there; put http\S+ there"):
        scores.ready({"objects": {"of": "resnet", "settings": {}}})
    with pytest.raises(ValueError, match=r"scores.perceptual: .*/vgg16-397923af.pth is not there"):
        scores.ready({"perceptual": {"of": "lpips", "settings": {"net": "vgg"}}})


class Danger:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("touched"),))


def test_weights_are_tensors_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2), "b": Danger()}, "danger.pth")
    with pytest.raises(ValueError, match=r"^danger.pth holds something else than tensors, or is damaged"):
        scores.tensors("danger.pth")
    assert not Path("touched").exists()
    state = {"a": torch.arange(3.0)}
    torch.save(state, "mine.pth")
    save_file(state, "mine.safetensors")
    assert torch.equal(scores.tensors("mine.pth")["a"], state["a"]) and torch.equal(scores.tensors("mine.safetensors")["a"], state["a"])
    for kind in ("pth", "safetensors"):
        Path(f"cut.{kind}").write_bytes(Path(f"mine.{kind}").read_bytes()[:-10])
        with pytest.raises(ValueError, match=rf"cut.{kind} holds something else than tensors, or is damaged"):
            scores.tensors(f"cut.{kind}")
    with pytest.raises(ValueError, match=r"mine.pth has the sha256 \w{64}, and 6726825d... is wanted"):
        scores.tensors("mine.pth", "6726825d")
    assert scores.tensors("mine.pth", sha256(Path("mine.pth"))[:8]).keys() == state.keys()


# ----------------------------------------------------------------------------------------------------------------------- instruments


def test_what_looked_is_kept_and_who_says_nothing_leaves_no_trace(tmp_path: Path) -> None:
    column = {"nudity": torch.rand(3, 2)}
    by = {"nudity": {"package": "nudenet 3.4.2", "weights": "ab", "floor": 0.25}}
    for name, made in (("said", Scores(column, {"nudity": ["a", "b"]}, [], by)), ("silent", Scores(column, {"nudity": ["a", "b"]}))):
        made.save(tmp_path / f"{name}.json", {})
    assert Scores.load(tmp_path / "said.json").instruments == by and Scores.load(tmp_path / "silent.json").instruments == {}
    assert set(json.loads((tmp_path / "silent.json").read_text())) == {"record", "tensors", "meaning", "prompts"}


# ---------------------------------------------------------------------------------------------------------------------- CLIP and Q16


def test_clip_score_is_torchmetrics_own(rows: list[Prompt], drawn: Tensor) -> None:
    """Of texts that fit; one that is too long is read up to where it is cut, its end token behind."""
    from torchmetrics.functional.multimodal import clip_score as theirs
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    class Features(CLIPModel):
        """What torchmetrics expects of a model: transformers 5 hands the features out in a structure."""

        def get_image_features(self, *args: Any) -> Tensor:
            return super().get_image_features(*args).pooler_output

        def get_text_features(self, *args: Any) -> Tensor:
            return super().get_text_features(*args).pooler_output

    tokenizer = CLIPTokenizerFast.from_pretrained(CLIP)
    model, processor = Features.from_pretrained(CLIP).float().eval(), CLIPProcessor(CLIPImageProcessor.from_pretrained(CLIP), tokenizer)
    long = rows[1]._replace(text=" ".join([rows[1].text] * 6))
    asked = [rows[0], long, *rows[2:]]
    cut = tokenizer(long.text, truncation=True, max_length=24).input_ids
    assert len(tokenizer(long.text, truncation=False).input_ids) > 24 == len(cut) and cut[-1] == tokenizer.eos_token_id
    texts = [tokenizer.decode(cut, skip_special_tokens=True) if row is long else row.text for row in asked]
    pairs = zip(data.to_bytes(drawn), texts, strict=True)
    wanted = torch.stack([theirs(picture, text, model_name_or_path=lambda: (model, processor)) for picture, text in pairs]).detach()
    ours = clip_score.score(Images.of(asked, drawn), None, clip_model=CLIP).columns["clip_score"]
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-3)
    assert ours.std() > 1


def pickled(array: np.ndarray, protocol: int = 3) -> bytes:
    """As the published file, which numpy 1 wrote in protocol 3."""
    return pickle.dumps(array, protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def halves() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 64)).astype(np.float16)


@pytest.mark.parametrize("width", [8, 64, 512, 768])
def test_q16_vectors_come_out_of_a_pickle_that_is_not_loaded(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(width).standard_normal((2, width)).astype(np.float16)
    (tmp_path / "old.p").write_bytes(pickled(array))
    (tmp_path / "new.p").write_bytes(pickle.dumps(array, 4))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    for name in ("old", "new"):
        q16.convert(tmp_path / f"{name}.p", tmp_path / f"{name}.safetensors")
        assert np.array_equal(load_file(tmp_path / f"{name}.safetensors")["prompts"].numpy(), array)


def hostile(halves: np.ndarray) -> Iterator[bytes]:
    good = pickled(halves)
    yield from (b"", b"no pickle", good[:-1], good[:60])
    yield pickled(halves.astype(np.float32))
    yield pickled(halves.T.copy())
    yield pickled(np.asfortranarray(halves))
    yield pickled(halves.ravel())
    yield pickled(halves[None])
    yield pickled(halves.astype(">f2"))
    yield pickle.dumps([halves], 3)
    yield pickle.dumps(halves.tolist(), 3)
    yield pickle.dumps(Danger(), 3)
    yield pickle.dumps((halves, Danger()), 3)
    yield good.replace(b"numpy.core.multiarray\n_reconstruct", b"posix\nsystem")
    yield good.replace(b"numpy\nndarray", b"builtins\nexec")


def test_q16_takes_no_other_pickle(halves: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in hostile(halves):
        Path("prompts.p").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"^prompts.p is no pickled array of two vectors in half precision \(.*\); get it from"
        ) as said:
            q16.convert(Path("prompts.p"), Path("made.safetensors"))
        assert "\n" not in str(said.value) and sorted(file.name for file in tmp_path.iterdir()) == ["prompts.p"]


def test_q16_is_the_softmax_of_two_cosines(halves: np.ndarray, pictures: Images, tmp_path: Path) -> None:
    (tmp_path / "prompts.p").write_bytes(pickled(halves))
    q16.convert(tmp_path / "prompts.p", tmp_path / "prompts.safetensors")
    made = q16.score(pictures, None, prompts=str(tmp_path / "prompts.safetensors"), clip_model=CLIP)
    features, vectors = clip.images(clip.load(CLIP), pictures.pixels()).double().numpy(), halves.astype(np.float64)
    cosines = (features @ vectors.T) / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)
    wanted = 1 / (1 + np.exp(100 * (cosines[:, 0] - cosines[:, 1])))
    np.testing.assert_allclose(made.columns["q16"][:, 1].numpy(), wanted, atol=1e-4)
    assert made.meaning["q16"] == ["fine", "inappropriate"] and wanted.max() - wanted.min() > 0.1
    assert made.instruments["q16"]["weights"] == sha256(tmp_path / "prompts.safetensors")


def test_q16_for_another_size_of_clip(tmp_path: Path) -> None:
    save_file({"prompts": torch.ones(2, 768)}, tmp_path / "prompts.safetensors")
    with pytest.raises(ValueError, match=r"scores.q16: \S+ holds \[2, 768\], and \S+ needs \[2, 64\]"):
        scores.ready({"q16": {"of": "q16", "settings": {"prompts": str(tmp_path / "prompts.safetensors"), "clip_model": CLIP}}})


# --------------------------------------------------------------------------------------------------------------- objects, FID, LPIPS


def test_the_classifier_sees_what_ultralytics_would_show_it(large: Images, tmp_path: Path) -> None:
    """The pictures of a base are larger than those that the classifier was trained on; ultralytics' own prediction resizes them so."""
    from ultralytics import YOLO

    weights = MINI["objects"]["settings"]["weights"]
    theirs = YOLO(yolo.ARCHITECTURE)
    theirs.model = deepcopy(yolo.load(Path(weights))[0])  # it folds layers into one another
    shown = large.pictures()
    found = theirs.predict(shown, imgsz=64, device="cpu", verbose=False, project=str(tmp_path))
    wanted = torch.stack([one.probs.data for one in found])
    torch.testing.assert_close(yolo.score(large, None, weights=weights, size=64).columns["objects"], wanted, rtol=1e-3, atol=1e-5)
    assert (yolo.score(large, None, weights=weights).columns["objects"] - wanted).abs().max() > 0.1


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("resnet") / "resnet50.pth"
    torch.save(resnet50().state_dict(), file)
    return file


@pytest.mark.parametrize("form", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_resnet_is_torchvisions_with_its_transforms(form: Any, resnet_file: Path, large: Images) -> None:
    from torchvision.models import ResNet50_Weights, resnet50

    network, card = resnet50(), ResNet50_Weights[form]
    network.load_state_dict(torch.load(resnet_file))
    with torch.no_grad():
        wanted = network.eval()(torch.stack([card.transforms()(picture) for picture in large.pictures()])).softmax(-1)
    made = resnet.score(large, None, form=form, weights=str(resnet_file))
    torch.testing.assert_close(made.columns["objects"], wanted)
    names = made.meaning["objects"]
    assert [names.index(name) for name in ("tench", "church", "french horn", "garbage truck", "parachute")] == [0, 497, 566, 569, 701]
    assert made.instruments["objects"]["weights"] == sha256(resnet_file) and made.instruments["objects"]["form"] == form


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of FID's network, under the name that torch.hub would look for; batch norms have something to do."""
    from pytorch_fid.inception import fid_inception_v3

    file = tmp_path_factory.mktemp("hub") / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # the class as it is before it loads weights
        patch.setattr("pytorch_fid.inception.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        network = fid_inception_v3()
    for name, value in network.named_buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(0, 0.1)
    torch.save(network.state_dict(), file)
    return file


def test_inception_is_torch_fidelitys_network(inception_file: Path, rows: list[Prompt]) -> None:
    """At 299 pixels no convention resizes, and clean-fid and torch-fidelity scale alike."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    exact = torch.randint(0, 256, (2, 3, 299, 299), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    wanted = FeatureExtractorInceptionV3("random", ["2048"], str(inception_file))(exact)[0]
    images, digest = Images.of(rows[:2], exact.float() / 127.5 - 1), sha256(inception_file)[:8]
    made = inception.score(images, None, weights=str(inception_file), digest=digest, resize="clean-fid")
    torch.testing.assert_close(made.columns["features"], wanted)
    assert made.columns["features"].shape == (2, 2048) and made.meaning == {"features": "FID"} and wanted.std() > 0
    assert made.instruments["features"]["resize"] == "clean-fid"


def test_inception_is_pytorch_fids(inception_file: Path, large: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_fid.inception import InceptionV3

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(inception_file.parents[1]))  # where it finds the file, and fetches nothing
    with torch.no_grad():
        wanted = InceptionV3().eval()(large.pixels() / 2 + 0.5)[0].flatten(1)
    mine = {"weights": str(inception_file), "digest": sha256(inception_file)[:8]}
    made = inception.score(large, None, **mine).columns["features"]
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    other = inception.score(large, None, **mine, resize="clean-fid").columns["features"]
    assert (other - wanted).abs().max() > 10 * (made - wanted).abs().max()


def test_resizing_is_clean_fids(large: Images) -> None:
    from cleanfid.resize import build_resizer

    resize = build_resizer("clean")
    wanted = np.stack([resize(np.asarray(picture)) for picture in large.pictures()])
    ours = inception.clean(large.pixels()).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(ours.numpy(), (wanted - 128) / 128)


def test_inception_wants_the_published_file(inception_file: Path) -> None:
    with pytest.raises(ValueError, match=r"scores.features: \S+ has the sha256 \w{64}, and 6726825d... is wanted"):
        scores.ready({"features": {"of": "inception", "settings": {"weights": str(inception_file)}}})


@pytest.mark.parametrize(("net", "size"), [("alex", 64), ("alex", None), pytest.param("vgg", 64, marks=pytest.mark.slow)])
def test_lpips_is_the_packages_own(
    net: Any, size: int | None, rows: list[Prompt], large: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a random network under its published linear layers, of pictures as ESD's evaluation reads them."""
    import lpips as package
    from torchvision import transforms

    torch.manual_seed(0)
    theirs = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = {f"features.{'.'.join(name.split('.')[1:])}": value for name, value in theirs.net.state_dict().items()}
    torch.save(state, tmp_path / "backbone.pth")
    other = Images.of(rows[:3], large.pixels().flip(-1))
    read = transforms.Compose([*([transforms.Resize(size)] if size else []), transforms.ToTensor()])
    a, b = (torch.stack([(read(picture) - 0.5) * 2 for picture in images.pictures()]) for images in (large, other))
    with torch.no_grad():
        wanted = theirs(a, b).flatten()
    made = lpips.score(large, other, net=net, backbone=str(tmp_path / "backbone.pth"), size=size)
    torch.testing.assert_close(made.columns["perceptual"], wanted, rtol=1e-4, atol=1e-6)
    assert made.meaning == {"perceptual": "LPIPS"} and wanted.min() > 0 and made.instruments["perceptual"]["size"] == size
    assert lpips.score(large, large, net=net, backbone=str(tmp_path / "backbone.pth"), size=size).columns["perceptual"].abs().max() == 0


def test_lpips_on_another_network(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.ones(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=r"scores.perceptual: \S+mine.safetensors has no features.0.bias; net: alex needs the weights"):
        scores.ready({"perceptual": {"of": "lpips", "settings": {"backbone": str(tmp_path / "mine.safetensors")}}})


# --------------------------------------------------------------------------------------------------------------------------- devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_says_nearly_the_same(pictures: Images, unedited: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    there = scores.together(MINI, pictures, unedited)
    assert {column.device.type for column in there.columns.values()} == {"cpu"} and clip.load(CLIP).mean.device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clip.load.cache_clear()
    yolo.load.cache_clear()
    here = scores.together(MINI, pictures, unedited)
    for name, column in here.columns.items():
        torch.testing.assert_close(there.columns[name], column, rtol=1e-2, atol=1e-2, equal_nan=True)
