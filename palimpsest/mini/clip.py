"""The mini CLIP (Radford et al. 2021) and its tokenizer: text tower of the embedded model, judge of style, source of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from palimpsest.mini import world
from palimpsest.mini.render import Renders
from palimpsest.optimise import descend

LENGTH = 24  # tokens a text
EXTRA = "person object art style picture sketch wooden peaceful scene no not and with on the is"  # words beyond the grammar


def vocabulary() -> list[str]:
    """Every word of the grammar, and a few that prompts of the field use."""
    names = [p for thing in world.THINGS.values() for p in thing.phrases]
    texts = [*names, *world.BACKGROUNDS.values(), *(t for ts in world.STYLES.values() for t in ts), "small big", EXTRA]
    return sorted({word for text in texts for word in text.replace("{}", " ").split()})


def tokenizer() -> CLIPTokenizer:
    """Byte pairs trained until every word of the vocabulary is one token; spelling falls back to letters."""
    words = vocabulary()
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, initial_alphabet=letters, end_of_word_suffix="</w>", continuing_subword_prefix="",
        special_tokens=["<|startoftext|>", "<|endoftext|>"], show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([*words, *letters], trainer)
    import json

    state = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    made = CLIPTokenizer(vocab=state["vocab"], merges=merges, model_max_length=LENGTH)
    for word in words:
        if len(made.tokenize(word)) != 1:
            raise ValueError(f"the word {word!r} is {made.tokenize(word)}, not one token")
    return made


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    return tokenizer(list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


def blank(tokenizer: CLIPTokenizer) -> CLIPModel:
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LENGTH, projection_dim=64, **special,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8, projection_dim=64
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    config._attn_implementation = "eager"  # twice as fast as SDPA for heads this small
    return CLIPModel(config)


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 "n h w 3" -> float "n 3 h w" in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(data: Renders, tokenizer: CLIPTokenizer, *, steps: int, batch: int = 128, lr: float = 1e-3, seed: int) -> CLIPModel:
    """Contrastive training; captions that say the same scene are no negatives of one another."""
    torch.manual_seed(seed)
    model = blank(tokenizer).train()
    draws = torch.Generator().manual_seed(seed)
    ids = tokens(tokenizer, [scene.caption for scene in data.scenes])
    same = {key: n for n, key in enumerate(sorted({scene[:3] for scene in data.scenes}))}
    scene = torch.tensor([same[s[:3]] for s in data.scenes])

    def loss(step: int) -> torch.Tensor:
        rows = torch.randint(len(ids), (batch,), generator=draws)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=ids[rows], pixel_values=pixels(data.pictures[rows.numpy()]))
        logits = out.logits_per_image.float()
        twins = (scene[rows][:, None] == scene[rows][None]) & ~torch.eye(batch, dtype=torch.bool)
        logits = logits.masked_fill(twins, -1e4)
        return (cross_entropy(logits, torch.arange(batch)) + cross_entropy(logits.T, torch.arange(batch))) / 2

    descend(
        loss, list(model.parameters()), steps=steps, lr=lr, schedule="cosine", clip=1.0, generator=draws, weight_decay=0.05, title="clip"
    )
    return model.eval()
