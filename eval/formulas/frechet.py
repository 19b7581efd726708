"""Frechet distance between two sets of feature vectors, in float64. Lower is closer.

The name of a published value says whose features they are (``fd_canvas``); it is an FID only with Inception features.
"""

from typing import NamedTuple

import numpy as np

from eval.formulas.intervals import Interval


GROUPS = 10  # that the jackknife leaves out one after the other; each costs as much as the distance itself
T_QUANTILE = 2.262  # 97.5 % of Student's t with GROUPS - 1 degrees of freedom


class Moments(NamedTuple):
    """What the distance knows of a set of features; the sums of a part can be taken away."""

    n: int
    total: np.ndarray  # (D,)
    outer: np.ndarray  # (D, D), sum of x x^T


def frechet_distance(first: np.ndarray, second: np.ndarray, *, minimum: int | None = None) -> float:
    """Distance between the Gaussians fitted to two feature sets (n, D).

    tr sqrt(S1 S2) is taken as tr sqrt(R^T S2 R) with S1 = R R^T, which is symmetric, so that eigenvalues are real. The
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
    dimension = first.shape[1]
    floor = dimension + 1 if minimum is None else minimum
    if min(len(first), len(second)) < floor:
        raise ValueError(
            f"The Frechet distance of {dimension}-dimensional features needs at least {floor} images on each side; "
            f"got {len(first)} and {len(second)}."
        )
    return max(0.0, _between(*(_moments(features) for features in _centred(first, second))))  # 0 but for rounding


def frechet_interval(
    first: np.ndarray, second: np.ndarray, prompt: np.ndarray, other_prompt: np.ndarray | None = None
) -> Interval:
    """95 % interval of the distance by a jackknife that leaves out groups of prompts, cut off at 0.

    It covers how the value varies from sample to sample around its expectation at this n, and not the bias by n. Groups
    need not have one size (Busing, Meijer and van der Leeden 1999).

    >>> x = np.random.default_rng(0).normal(size=(400, 2))
    >>> lo, hi = frechet_interval(x[:200], x[200:] + 1, np.arange(200))
    >>> lo < 2 < hi, hi - lo < 1.5
    (True, True)

    Args:
        first: features of one model, (n, D).
        second: features of the other, (m, D).
        prompt: number of the prompt of each row of ``first``, (n,) int.
        other_prompt: the same of ``second``, (m,), where its rows are not paired with those of ``first``; paired rows
            leave together.

    Raises:
        ValueError: fewer than ``GROUPS`` prompts on a side, or paired sets of unequal length.
    """
    prompts = (prompt, prompt if other_prompt is None else other_prompt)
    _check_prompts((first, second), prompts)
    sides = _centred(first, second)
    groups = [_groups(each) for each in prompts]
    whole = [_moments(features) for features in sides]
    value, times, without = _between(*whole), [], []
    for group in range(GROUPS):
        parts = [_moments(features[own == group]) for features, own in zip(sides, groups, strict=True)]
        without.append(_between(*(_less(one, part) for one, part in zip(whole, parts, strict=True))))
        times.append(whole[0].n / parts[0].n)
    fold, left = np.array(times), np.array(without)
    pseudo = fold * value - (fold - 1) * left
    centre = GROUPS * value - ((1 - 1 / fold) * left).sum()
    half = T_QUANTILE * float(np.sqrt(((pseudo - centre) ** 2 / (fold - 1)).mean()))
    return Interval(max(0.0, value - half), value + half)


def _check_prompts(sides: tuple[np.ndarray, np.ndarray], prompts: tuple[np.ndarray, np.ndarray]) -> None:
    sizes = [len(side) for side in sides]
    if sizes != [len(each) for each in prompts]:
        raise ValueError(
            f"Got {sizes[0]} and {sizes[1]} features for {len(prompts[0])} and {len(prompts[1])} prompts; "
            "give a prompt for each row."
        )
    count = [len(np.unique(each)) for each in prompts]
    if min(count) < GROUPS:
        raise ValueError(
            f"The sides have {count[0]} and {count[1]} prompts, but {GROUPS} groups are left out: give as many prompts."
        )


def _groups(prompt: np.ndarray) -> np.ndarray:
    """The group of each row, (n,) int: whole prompts, drawn at random into groups of about as many rows.

    A grid lists its prompts by style and object, so that neighbours are not independent.
    """
    index, sizes = np.unique(prompt, return_inverse=True, return_counts=True)[1:]
    order = np.random.default_rng(0).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the large ones first, each to the emptiest group
    found, filled = np.empty(len(sizes), int), np.zeros(GROUPS, int)
    for each in order:
        found[each] = filled.argmin()
        filled[found[each]] += sizes[each]
    return found[index]


def _centred(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64 less the mean of the first, since sums of squares far from 0 lose digits."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    centre = first.mean(0)
    return first - centre, second - centre


def _moments(features: np.ndarray) -> Moments:
    return Moments(len(features), features.sum(0), features.T @ features)


def _less(whole: Moments, part: Moments) -> Moments:
    return Moments(whole.n - part.n, whole.total - part.total, whole.outer - part.outer)


def _between(first: Moments, second: Moments) -> float:
    gap = first.total / first.n - second.total / second.n
    one, other = ((side.outer - np.outer(side.total, side.total) / side.n) / (side.n - 1) for side in (first, second))
    root = _root(one)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root.T @ other @ root), 0, None)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(other) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with R R^T = S, (D, D); Cholesky's takes a fifth of the time and wants full rank."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.clip(values, 0, None))
