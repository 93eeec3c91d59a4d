"""Zero-shot style classifier: softmax of CLIP's cosines times one hundred over a list of styles, as Dark Miner judges styles

(arXiv 2409.17682, Section 4: UnlearnCanvas' list, "an image in the style of ..."; the class is the argmax).
"""

from __future__ import annotations

from torch.nn.functional import normalize

from palimpsest import clip
from palimpsest.data import Images, Scores


def score(images: Images, reference: Images | None, *, clip_model: str, styles: dict[str, str]) -> Scores:
    """Column `styles`, "n styles".

    Args:
        styles: the sentence for each style; the names are the classes.
    """
    eye = clip.load(clip_model)
    text = normalize(clip.texts(eye, list(styles.values())), dim=-1)
    image = normalize(clip.images(eye, images.pixels()), dim=-1)
    return Scores({"styles": (eye.model.logit_scale.exp() * image @ text.T).softmax(-1)}, {"styles": list(styles)})
