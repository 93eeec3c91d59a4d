"""Pictures of COCO 2017's validation set (Lin et al. 2014), those of the captions that prompts are taken from, as Dark Miner measures FID:

"between the 5,000 real images corresponding to the captions and 5,000 generated images" (arXiv 2409.17682, Section 4). How they are cut is
not said there; here the shorter side is brought to `size` and the middle taken, without a JPEG on the way.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from torch import Tensor

from palimpsest.data import Prompt, read, to_tensor
from palimpsest.references import Real

REMEDY = "`snakemake --cores 1 data/external/coco/{}` fetches it, or `reference` in params.yaml names your own copy"


def middle(picture: Image.Image, size: int) -> Image.Image:
    """The shorter side brought to `size` (bicubic, antialiased), then the middle square."""
    scale = size / min(picture.size)
    wide, high = (max(size, round(side * scale)) for side in picture.size)
    left, top = (wide - size) // 2, (high - size) // 2
    return picture.resize((wide, high), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def pictures(*, captions: str, folder: str, images: int = 5000, size: int = 512) -> Real:
    """The first `images` rows of a list of captions, each with its picture.

    Args:
        captions: a CSV with the columns image_id and caption.
        folder: of the pictures, named by twelve digits as COCO names them.
        size: of the square that each is brought to, in pixels.

    Raises:
        FileNotFoundError: the list or a picture is missing; the message says what to do.
    """
    if not Path(captions).exists():
        raise FileNotFoundError(f"{captions}: no such list of captions; {REMEDY.format('captions.csv')}")
    with Path(captions).open(newline="") as lines:
        said = [(Path(folder) / f"{int(row['image_id']):012d}.jpg", row["caption"]) for row in csv.DictReader(lines)][:images]
    for file, _ in said:
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such picture of COCO; {REMEDY.format('val2017')}")

    def cut(piece: slice) -> Iterator[Tensor]:
        return (to_tensor(middle(read(file), size)) for file, _ in said[piece])

    return Real([Prompt(text, n, "other") for n, (_, text) in enumerate(said)], cut)
