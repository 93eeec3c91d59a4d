"""Pictures of COCO 2017's validation set (Lin et al. 2014), those of the captions that prompts are taken from, as Dark Miner measures FID:

"between the 5,000 real images corresponding to the captions and 5,000 generated images" (arXiv 2409.17682, Section 4). How they are cut is
not said there; here the shorter side is brought to `size` and the middle taken, without a JPEG on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from torch import Tensor

from palimpsest import lists
from palimpsest.data import Prompt, read, to_tensor
from palimpsest.references import Real
from palimpsest.types import Count

REMEDY = "`snakemake --cores 1 data/external/coco/{}` fetches it, or `reference` in params.yaml names your own copy"


def middle(picture: Image.Image, size: int) -> Image.Image:
    """The shorter side brought to `size` (bicubic, antialiased), then the middle square."""
    scale = size / min(picture.size)
    wide, high = (max(size, round(side * scale)) for side in picture.size)
    left, top = (wide - size) // 2, (high - size) // 2
    return picture.resize((wide, high), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def listed(captions: str) -> list[tuple[int, str]]:
    """The number of each picture of a list, and its caption.

    Raises:
        ValueError: it is no CSV of UTF-8, or lacks a column, or a picture has no number.
    """
    rows = lists.rows("reference: captions", captions, "image_id", "caption")
    for row in rows:
        if not row["image_id"].strip().isdecimal():
            raise ValueError(f"reference: captions: {captions} has {row['image_id']!r} for an image_id; write a whole number there")
    return [(int(row["image_id"]), row["caption"]) for row in rows]


def pictures(*, captions: str, folder: str, images: Count = 5000, size: Count = 512) -> Real:
    """The first `images` rows of a list of captions, each with its picture.

    Args:
        captions: a CSV with the columns image_id and caption.
        folder: of the pictures, named by twelve digits as COCO names them.
        size: of the square that each is brought to, in pixels.

    Raises:
        FileNotFoundError: the list or a picture is missing; the message says what to do. ValueError: the list is not as it should be.
    """
    if not Path(captions).exists():
        raise FileNotFoundError(f"{captions}: no such list of captions; {REMEDY.format('captions.csv')}")
    said = [(Path(folder) / f"{number:012d}.jpg", caption) for number, caption in listed(captions)][:images]
    for file, _ in said:
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such picture of COCO; {REMEDY.format('val2017')}")

    def cut(piece: slice) -> Iterator[Tensor]:
        return (to_tensor(middle(read(file), size)) for file, _ in said[piece])

    return Real([Prompt(text, n, "other") for n, (_, text) in enumerate(said)], cut)
