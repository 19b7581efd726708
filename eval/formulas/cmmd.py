"""CMMD (arXiv 2401.09603, eq. 4): squared MMD of unit CLIP image features under a Gaussian kernel, times 1000.

sigma = 10 and the minimum-variance (biased) estimate, as in the authors' code. Lower is closer. The number belongs to
its CLIP model: name a published value after it.
"""

from typing import NamedTuple

import numpy as np


SIGMA = 10.0
BLOCK = 1024  # rows whose kernels are held at once
SCALE = 1000.0


class Cmmd(NamedTuple):
    """The distance, and its 95 % interval by the jackknife over prompts."""

    value: float
    lo: float
    hi: float
    n: int


def cmmd(first: np.ndarray, second: np.ndarray, prompt: np.ndarray, *, minimum: int = 16) -> Cmmd:
    """Distance between two paired sets of CLIP image features (n, D), which need not have unit length.

    The jackknife leaves out one prompt after the other on both sides; near 0 the interval is cut off at 0.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(40, 8)), rng.normal(size=(40, 8))
    >>> cmmd(x, x, np.arange(40)).value, cmmd(x, y + 3, np.arange(40)).lo > 0
    (0.0, True)

    Args:
        first: features of one model, (n, D).
        second: features of the other, (n, D), row by row for the same prompt and seed.
        prompt: number of the prompt of each row, (n,) int.
        minimum: fewest rows.

    Raises:
        ValueError: fewer rows or prompts than needed, or sets that are not paired.
    """
    prompts, index = np.unique(prompt, return_inverse=True)
    if not len(first) == len(second) == len(prompt):
        raise ValueError(f"Got {len(first)} and {len(second)} features for {len(prompt)} rows; CMMD needs paired rows.")
    if len(first) < minimum or len(prompts) < 2:
        raise ValueError(f"CMMD needs {minimum} images of 2 prompts; got {len(first)} of {len(prompts)}.")
    first, second = _unit(first), _unit(second)
    member = np.eye(len(prompts))[index]  # (n, P)
    sums = np.concatenate(
        [_within(first, second, slice(row, row + BLOCK)) @ member for row in range(0, len(first), BLOCK)]
    )
    value = SCALE * float(sums.sum()) / len(first) ** 2
    own = member.T @ sums  # (P, P), sums over pairs of prompts
    counts = member.sum(0)
    # without prompt p: all pairs, less its row and its column, plus what was taken away twice
    left = own.sum() - own.sum(0) - own.sum(1) + np.diag(own)
    values = SCALE * left / (len(first) - counts) ** 2
    half = 1.96 * float(np.sqrt((len(prompts) - 1) / len(prompts) * ((values - values.mean()) ** 2).sum()))
    return Cmmd(value, max(0.0, value - half), value + half, len(first))


def _within(first: np.ndarray, second: np.ndarray, rows: slice) -> np.ndarray:
    """The kernel within the sets less that between them, of some rows with all: (rows, n)."""
    one, other = first[rows], second[rows]
    return _kernel(one, first) + _kernel(other, second) - _kernel(one, second) - _kernel(other, first)


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.exp(-squared / (2 * SIGMA**2))
