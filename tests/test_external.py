"""What is fetched, from a real server on this machine: by digest, again where it is damaged, in one line where it cannot be had."""

from __future__ import annotations

import csv
import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from conftest import TOP

from palimpsest import external
from palimpsest.data import to_tensor
from palimpsest.references import coco
from palimpsest.workflow import params, plan, sheets


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder whose files it gives out."""
    folder = tmp_path / "served"
    folder.mkdir()
    Quiet.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_file_is_fetched_once_and_again_where_it_is_damaged(
    server: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    address, folder = server
    content = b"weights" * 1000
    (folder / "w.pth").write_bytes(content)
    file = tmp_path / "here/w.pth"
    for _ in range(2):
        assert external.download(f"{address}/w.pth", sha(content), file).read_bytes() == content
    assert len(Quiet.asked) == 1
    file.write_bytes(content[:3000])
    assert external.download(f"{address}/w.pth", sha(content)[:15], file).read_bytes() == content and len(Quiet.asked) == 2
    assert f"{file} is damaged" in capsys.readouterr().err


def test_what_cannot_be_had_is_one_line(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    with pytest.raises(OSError, match=r"gone.zip cannot be fetched .*404.* put your own copy at") as error:
        external.download(f"{address}/gone.zip", "md5:00", tmp_path / "gone.zip")
    assert "\n" not in str(error.value)
    (folder / "page.zip").write_text("please log in")
    with pytest.raises(ValueError, match=r"page.zip comes md5:\w+, and md5:00 is wanted; is it a login page"):
        external.download(f"{address}/page.zip", "md5:00", tmp_path / "page.zip")
    with pytest.raises(OSError, match="cannot be fetched"):
        external.download("http://127.0.0.1:9/nothing", "md5:00", tmp_path / "nothing")


def annotations(pictures: int) -> bytes:
    rows = [{"image_id": 100 + n, "id": 10 * n + k, "caption": f"picture {n},\n said {k}"} for n in range(pictures) for k in range(3)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(external.ANNOTATIONS, json.dumps({"annotations": rows[::-1]}))
    return out.getvalue()


def test_captions_and_their_pictures(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caption a picture, the same every time; the reference set is the pictures of the captions, cut square."""
    from PIL import Image

    address, folder = server
    (folder / "a.zip").write_bytes(annotations(5))
    with zipfile.ZipFile(folder / "val2017.zip", "w") as archive:
        for n in range(5):
            out = io.BytesIO()
            Image.new("RGB", (64, 48 + n), (40 * n, 0, 0)).save(out, "JPEG")
            archive.writestr(f"val2017/{100 + n:012d}.jpg", out.getvalue())
    monkeypatch.chdir(tmp_path)
    made, pictures = Path("coco/captions.csv"), Path("coco/val2017")
    for _ in range(2):
        external.make(made, f"{address}/a.zip", sha(annotations(5))[:20], "captions")
        external.make(pictures, f"{address}/val2017.zip", sha((folder / "val2017.zip").read_bytes()), "folder")
        rows = list(csv.DictReader(made.open()))
        assert [row["image_id"] for row in rows] == [str(100 + n) for n in range(5)]
        assert all(row["caption"].startswith(f"picture {n}, said ") for n, row in enumerate(rows))
        said = [row["caption_id"] for row in rows]
    assert said == [row["caption_id"] for row in csv.DictReader(made.open())] and len({row["seed"] for row in rows}) == 5
    assert not list(Path("work").rglob("*.zip"))
    real = coco.pictures(captions=str(made), folder=str(pictures), images=4, size=32)
    assert [row.text for row in real.rows] == [row["caption"] for row in rows[:4]]
    shown = list(real.pictures(slice(1, 3)))
    assert [tuple(one.shape) for one in shown] == [(3, 32, 32)] * 2 and shown[1][0].mean() > shown[0][0].mean()
    (pictures / f"{101:012d}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000000000101.jpg: no such picture of COCO; `snakemake"):
        coco.pictures(captions=str(made), folder=str(pictures), images=4, size=32)
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv: no such list of captions; "):
        coco.pictures(captions="nowhere.csv", folder=str(pictures))


def test_a_list_of_captions_that_is_none_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    for content, said in (
        (b"image_id,text\n1,a dog\n", r"own.csv has no column 'caption'; it has: image_id, text$"),
        (b"caption\na dog\n", r"own.csv has no column 'image_id'; it has: caption$"),
        (b"image_id,caption\nx,a dog\n", r"own.csv has 'x' for an image_id; write a whole number there$"),
        (b"image_id,caption\n1,\xe9\n", r"own.csv is no CSV in UTF-8 \(.*\); save it as one$"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="^reference: captions: .*" + said):
            coco.pictures(captions=str(file), folder=str(tmp_path))


def test_a_picture_is_cut_in_the_middle() -> None:
    from PIL import Image

    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste((0, 0, 255), (100, 0, 200, 100))
    cut = to_tensor(coco.middle(wide, 50))
    assert tuple(cut.shape) == (3, 50, 50) and (cut[2] > 0.8).all() and (cut[0] < -0.8).all()


def test_every_entry_says_how_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    for place, entry in sheets.external().items():
        assert place.startswith("data/external/") and entry["as"] in external.MAKERS and entry["url"].startswith("http")
        assert entry["digest"].split(":")[0] in ("md5", "sha256")


def test_a_plan_knows_what_is_fetched_before_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By address and digest, so that fetching it changes nothing; another digest makes stale what reads it."""
    monkeypatch.chdir(TOP)
    settings = params.load()
    before = plan.plan("gen_reference", {"base": "sd14"}, settings)
    assert "data/external/coco/val2017" in before["files"]
    other = yaml.safe_load(Path("data/external.yaml").read_text())
    other["data/external/coco/val2017"]["digest"] = "md5:00"
    monkeypatch.setattr(sheets, "external", lambda: other)
    plan.content.cache_clear()
    changed = list(plan.compare(before, plan.plan("gen_reference", {"base": "sd14"}, settings)))
    assert changed == ["data/external/coco/val2017 changed"]
    plan.content.cache_clear()
