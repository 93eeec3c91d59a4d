"""Train one part of the embedded model: python scripts/mini_weights.py clip|vae|decoder|unet|control|judge|card"""

import sys

import torch

from palimpsest.mini import card
from palimpsest.mini.train import PARTS

if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads of one process are slower than two processes
    {**PARTS, "card": card.make}[sys.argv[1]]()
