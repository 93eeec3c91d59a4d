"""Train one part of the embedded model: python scripts/mini_weights.py clip|vae|decoder|unet|control|judge"""

import sys

import torch

from palimpsest.mini.train import PARTS

if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads of one process are slower than two processes
    PARTS[sys.argv[1]]()
