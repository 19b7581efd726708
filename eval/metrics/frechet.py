"""Frechet distance between two sets of feature vectors, in float64. Lower is closer.

The name of a published value says whose features they are (``fd_canvas``); it is an FID only with Inception features.
"""

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray, *, minimum: int | None = None) -> float:
    """Distance between the Gaussians fitted to two feature sets (n, D).

    tr sqrt(S1 S2) is taken as tr sqrt(R S2 R) with R = sqrt(S1), which is symmetric, so that eigenvalues are real. The
    estimate is biased upwards at small n: compare values at equal n only.

    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(frechet_distance(x, x + 3), 6)
    18.0
    >>> frechet_distance(x[:2], x)
    Traceback (most recent call last):
        ...
    ValueError: The Frechet distance of 2-dimensional features needs at least 3 images on each side; got 2 and 50.

    Raises:
        ValueError: fewer images than ``minimum`` (D + 1 if not given: below that the covariance has no full rank).
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    dimension = first.shape[1]
    floor = dimension + 1 if minimum is None else minimum
    if min(len(first), len(second)) < floor:
        raise ValueError(
            f"The Frechet distance of {dimension}-dimensional features needs at least {floor} images on each side; "
            f"got {len(first)} and {len(second)}."
        )
    gap = first.mean(0) - second.mean(0)
    one, other = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other @ root), 0, None)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(other) - 2 * cross)
