"""Kernel distance between two sets of feature vectors: unbiased squared MMD with a cubic kernel (arXiv 1801.01401).

Lower is closer; an unbiased estimate of 0 scatters around 0 and may be negative. As with the Frechet distance, a
published value is named after its features (``kid_canvas``).
"""

from typing import NamedTuple

import numpy as np


class KernelDistance(NamedTuple):
    """The estimate from all images, and the central 95 % of the estimates from random subsets."""

    value: float
    lo: float
    hi: float
    n: int
    subset_size: int


def kernel_distance(
    first: np.ndarray, second: np.ndarray, *, subsets: int = 100, seed: int = 0, minimum: int = 16
) -> KernelDistance:
    """Squared MMD between feature sets (n, D); the subsets hold half of the smaller set.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 4)), rng.normal(size=(200, 4))
    >>> near, far = kernel_distance(x, y), kernel_distance(x, y + 1)
    >>> near.lo < 0 < near.hi, far.lo > 0
    (True, True)

    Raises:
        ValueError: fewer than ``minimum`` images on a side.
    """
    n = min(len(first), len(second))
    if n < minimum:
        raise ValueError(
            f"The kernel distance needs {minimum} images on each side; got {len(first)} and {len(second)}."
        )
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    own, other, cross = _kernel(first, first), _kernel(second, second), _kernel(first, second)
    size, rng = n // 2, np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        one, two = rng.choice(len(first), size, replace=False), rng.choice(len(second), size, replace=False)
        values.append(_mmd2(own[np.ix_(one, one)], other[np.ix_(two, two)], cross[np.ix_(one, two)]))
    lo, hi = np.quantile(values, [0.025, 0.975])
    return KernelDistance(_mmd2(own, other, cross), float(lo), float(hi), n, size)


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mmd2(own: np.ndarray, other: np.ndarray, cross: np.ndarray) -> float:
    m, n = len(own), len(other)
    within = (own.sum() - np.trace(own)) / (m * (m - 1)) + (other.sum() - np.trace(other)) / (n * (n - 1))
    return float(within - 2 * cross.mean())
