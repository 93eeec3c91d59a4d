"""NudeNet in batches beside the package's own detector, picture by picture.

On the little world it finds faces of dolls, and takes trees for feet, balloons for more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import on_disk
from nudenet import NudeDetector
from nudenet import nudenet as package

from palimpsest import data
from palimpsest.mini import world
from palimpsest.scores import nudenet

AS_SHIPPED = {"size": 320, "floor": 0.25, "overlap": 0.45}
THINGS = ("doll", "doll", "tree", "tree", "balloon", "strawberry", "violin", "french horn")


@pytest.fixture(scope="module")
def network() -> nudenet.Network:
    return nudenet.load("320n")


@pytest.fixture(scope="module")
def theirs() -> NudeDetector:
    return NudeDetector()


@pytest.fixture(scope="module")
def renders() -> list[np.ndarray]:
    """Pictures of the little world, "64 64 3" of bytes."""
    rng = np.random.default_rng(0)
    return [np.asarray(world.render(world.Scene(thing, "field", "plain", "", ""), rng)) for thing in THINGS]


@pytest.fixture(scope="module")
def pictures(renders: list[np.ndarray]) -> list[np.ndarray]:
    """These, several in one, larger, cut to odd shapes, and what was never drawn."""
    rng = np.random.default_rng(1)
    several = [np.concatenate([renders[a], renders[b]], 1) for a, b in ((0, 1), (2, 3), (2, 0), (1, 4))]
    large = [renders[n].repeat(4, 0).repeat(4, 1) for n in (0, 2, 4)]
    odd = [large[n % 3][:high, :wide] for n, (high, wide) in enumerate([(256, 97), (31, 256), (255, 254), (1, 256), (200, 3)])]
    noise = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((64, 64), (100, 512), (333, 320))]
    return [np.ascontiguousarray(one) for one in (*renders, *several, *large, *odd, *noise)]


def as_told(found: list[dict]) -> list[tuple]:
    return [(one["class"], one["score"], tuple(one["box"])) for one in found]


def test_labels_are_the_packages_in_its_order(network: nudenet.Network) -> None:
    assert list(network.labels) == vars(package)["__labels"] and len(network.labels) == 18


def test_a_batch_finds_what_the_package_finds_in_each(network: nudenet.Network, theirs: NudeDetector, pictures: list[np.ndarray]) -> None:
    """An array of red, green, blue reaches the package's network in this order."""
    ours, wanted = nudenet.detect(network, pictures, **AS_SHIPPED), [as_told(theirs.detect(one)) for one in pictures]
    assert sum(map(bool, wanted)) > 6 and max(map(len, wanted)) > 1 and len({box[0] for found in wanted for box in found}) > 2
    for mine, found in zip(ours, wanted, strict=True):
        assert [(box.label, box.box) for box in mine] == [(label, place) for label, _, place in found]
        assert [box.score for box in mine] == pytest.approx([score for _, score, _ in found], abs=1e-6)


def test_as_shipped_is_what_the_package_makes_of_a_file(
    network: nudenet.Network, theirs: NudeDetector, renders: list[np.ndarray], tmp_path: Path
) -> None:
    images = on_disk(
        tmp_path / "manifest.json",
        [data.Prompt("", n) for n in range(len(renders))],
        [torch.from_numpy(one).permute(2, 0, 1).float() / 127.5 - 1 for one in renders],
    )
    found = [theirs.detect(str(tmp_path / row.file)) for row in images.rows]
    wanted = torch.tensor(
        [[max((one["score"] for one in seen if one["class"] == name), default=0) for name in network.labels] for seen in found]
    )
    swapped, plain = (nudenet.score(images, None, channels=order).columns["nudity"] for order in ("as_shipped", "rgb"))
    torch.testing.assert_close(swapped, wanted, atol=1e-6, rtol=0)
    assert (wanted > 0).any() and not torch.equal(swapped > 0, plain > 0)


def crowd(rng: np.random.Generator, anchors: int) -> np.ndarray:
    """What a network might say of a crowded picture: boxes that overlap, some of them out of it, one in six likely."""
    out = rng.uniform(0, 0.3, (22, anchors)).astype(np.float32)
    out[:2], out[2:4] = rng.uniform(-10, 330, (2, anchors)), rng.uniform(20, 200, (2, anchors))
    likely = rng.choice(anchors, anchors // 6, replace=False)
    out[rng.integers(4, 22, len(likely)), likely] = rng.uniform(0.2, 1, len(likely))
    return out


@pytest.mark.parametrize(("high", "wide"), [(320, 320), (512, 512), (64, 64), (97, 256), (256, 31)])
def test_boxes_of_a_crowded_picture(network: nudenet.Network, high: int, wide: int) -> None:
    """Clipping, floor and suppression beside the package's, the likeliest first."""
    rng, side = np.random.default_rng(high + wide), max(high, wide)
    for _ in range(5):
        out = crowd(rng, 60)
        pads = (side - wide, side - high, side / wide, side / high)
        wanted = as_told(package._postprocess([out[None]], *pads, wide, high, 320, 320))
        ours = nudenet.boxes(out, high, wide, labels=network.labels, **AS_SHIPPED)
        assert [tuple(box) for box in ours] == wanted and 3 < len(wanted) < (out[4:].max(0) > 0.25).sum()


def test_settings_count(network: nudenet.Network) -> None:
    out = crowd(np.random.default_rng(3), 60)
    usual = nudenet.boxes(out, 320, 320, labels=network.labels, **AS_SHIPPED)
    strict = nudenet.boxes(out, 320, 320, labels=network.labels, **{**AS_SHIPPED, "floor": 0.6})
    apart = nudenet.boxes(out, 320, 320, labels=network.labels, **{**AS_SHIPPED, "overlap": 0.05})
    assert strict == [box for box in usual if box.score > 0.6] and 0 < len(strict) < len(usual)
    assert set(apart) < set(usual)


def test_a_column_holds_the_largest_confidence_of_each_label(network: nudenet.Network, renders: list[np.ndarray]) -> None:
    several = [np.concatenate([renders[a], renders[b]], 1) for a, b in ((0, 1), (2, 3), (2, 0))]
    images = data.Images.of([data.Prompt("", n) for n in range(3)], torch.from_numpy(np.stack(several)).permute(0, 3, 1, 2) / 127.5 - 1)
    made = nudenet.score(images, None)
    found = nudenet.detect(network, several, **AS_SHIPPED)
    assert max(len(seen) - len({box.label for box in seen}) for seen in found) > 0  # a label twice in one picture
    for row, seen in zip(made.columns["nudity"], found, strict=True):
        for label, value in zip(made.meaning["nudity"], row.tolist(), strict=True):
            assert value == pytest.approx(max((box.score for box in seen if box.label == label), default=0))
    assert made.instruments["nudity"]["package"].startswith("nudenet 3.") and len(made.instruments["nudity"]["weights"]) == 64


def test_a_network_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"data/nowhere/640m.onnx is not there; put it there"):
        nudenet.load("data/nowhere/640m.onnx")
