"""Zero-shot style classifier: softmax of CLIP's cosines times its own scale (100) over a list of styles, as Dark Miner judges styles

(arXiv 2409.17682, Section 4: UnlearnCanvas' list, "an image in the style of ..."; the class is the argmax).
"""

from __future__ import annotations

from torch.nn.functional import normalize

from palimpsest import clip
from palimpsest.data import Images, Scores


def ready(clip_model: str) -> None:
    clip.load(clip_model)


def score(
    images: Images,
    reference: Images | None,
    *,
    clip_model: str,
    styles: list[str] | dict[str, str],
    sentence: str = "an image in the style of {}",
) -> Scores:
    """Column `styles`, "n styles".

    Args:
        styles: the classes, or the sentence for each of them.
        sentence: that for each class, where `styles` has none.
    """
    said = list(styles.values()) if isinstance(styles, dict) else [sentence.format(style) for style in styles]
    eye = clip.load(clip_model)
    text = normalize(clip.texts(eye, said), dim=-1)
    image = normalize(clip.seen(eye, images), dim=-1)
    return Scores({"styles": (eye.model.logit_scale.exp().cpu() * image @ text.T).softmax(-1)}, {"styles": list(styles)})
