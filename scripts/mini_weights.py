"""Train one part of the embedded model, or measure it and write its card (`card`)."""

import argparse

import torch

from palimpsest.mini import card
from palimpsest.mini.train import PARTS
from palimpsest.workflow import params


def measured() -> None:
    settings = params.load()
    card.make(settings["bases"]["mini"], settings["scores"]["styles"]["settings"]["styles"])


if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads of one process are slower than two processes
    parts = {**PARTS, "card": measured}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=parts)
    parts[parser.parse_args().part]()
