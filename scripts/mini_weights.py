"""Train one part of the embedded model: python scripts/mini_weights.py clip|vae|decoder|unet|control|judge|card"""

import sys

import torch

from palimpsest.mini import card
from palimpsest.mini.train import PARTS
from palimpsest.workflow import params


def measured() -> None:
    settings = params.load()
    card.make(settings["bases"]["mini"], settings["scores"]["styles"]["settings"]["styles"])


if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads of one process are slower than two processes
    {**PARTS, "card": measured}[sys.argv[1]]()
