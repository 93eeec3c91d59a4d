"""From raw scores to the numbers of a table: rates with intervals, means, Frechet distance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

Z = 1.959964  # two-sided 95 %


class Rate(NamedTuple):
    """A share in percent of n pictures with its 95 % interval."""

    percent: float
    low: float
    high: float
    n: int


def rate(positive: Tensor) -> Rate:
    """Share of true values with Wilson's score interval (Wilson 1927). "n" booleans; an empty set has no share."""
    n, k = len(positive), int(positive.sum())
    if n == 0:
        return Rate(math.nan, math.nan, math.nan, 0)
    centre = (k / n + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(k / n * (1 - k / n) / n + Z**2 / (4 * n**2))
    return Rate(100 * k / n, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half), n)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two sets of features "n d" as normal distributions (Heusel et al. 2017), in float64.

    tr sqrt(S_a S_b) is the sum of the square roots of the eigenvalues of sqrt(S_a) S_b sqrt(S_a), which is symmetric.
    Fewer than two have no covariance, and so no distance.
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).pow(2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def spread(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and half its 95 % interval (Student's t, sample deviation); a single value has no interval."""
    from scipy.stats import t

    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return mean, float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
