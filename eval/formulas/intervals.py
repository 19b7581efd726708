"""Confidence intervals: Wilson's for a proportion, and a seeded bootstrap over clusters (prompts or cells)."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """The two ends of a confidence interval."""

    lo: float
    hi: float


@lru_cache(maxsize=4096)  # reports ask for few pairs of numbers, many times
def wilson(hits: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; it has a width at 0 of n and at n of n, too.

    >>> [round(100 * end, 1) for end in wilson(5, 10)]
    [23.7, 76.3]
    >>> [round(100 * end, 1) for end in wilson(0, 50)]
    [0.0, 7.1]

    Raises:
        ValueError: n is not positive, or hits is not within 0 and n.
    """
    if n <= 0 or not 0 <= hits <= n:
        raise ValueError(f"Got {hits} hits of {n}; a proportion needs n > 0 and 0 <= hits <= n.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def cluster_bootstrap(
    columns: Sequence[np.ndarray],
    clusters: np.ndarray,
    statistic: Callable[..., np.ndarray] = lambda mean: mean,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of a function of the columns' means, when whole clusters are drawn with replacement.

    Images of one prompt resemble each other, so they are kept together; rows of several columns stay paired. The
    statistic gets one array per column, with the mean of each resample; what it leaves undefined (NaN) is left out.

    >>> hits = np.array([1.0, 1, 0, 0, 1, 1, 0, 1])
    >>> cluster_bootstrap([hits], np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    Interval(lo=0.125, hi=1.0)
    >>> cluster_bootstrap([hits, hits], np.arange(8), lambda one, other: one - other)
    Interval(lo=0.0, hi=0.0)

    Raises:
        ValueError: no rows, or columns of unequal length.
    """
    if len(clusters) == 0 or any(len(column) != len(clusters) for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"The columns have {lengths} rows for {len(clusters)} clusters; give equal, non-zero numbers.")
    index = np.unique(clusters, return_inverse=True)[1]
    count = int(index.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    rows = drawn @ np.bincount(index)  # rows of each resample; clusters may differ in size
    values = statistic(*(drawn @ np.bincount(index, weights=column) / rows for column in columns))
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(math.nan, math.nan)
    lo, hi = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(lo), float(hi))


def wider(*intervals: Interval) -> Interval:
    """The smallest interval that holds all of them.

    >>> wider(Interval(0.2, 0.4), Interval(0.3, 0.5))
    Interval(lo=0.2, hi=0.5)
    """
    return Interval(min(each.lo for each in intervals), max(each.hi for each in intervals))


def ratio_interval(
    ours: np.ndarray, theirs: np.ndarray, clusters: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of mean(ours) / mean(theirs) of paired yes-or-no rows (n,), such as a share of the base's.

    The wider of the paired cluster bootstrap and of Wilson's interval of ``ours`` over the observed share of
    ``theirs``: the bootstrap alone has no width where every row agrees.

    >>> hits = np.array([1.0, 1, 0, 0, 1, 1, 0, 1])
    >>> [round(end, 3) for end in ratio_interval(hits, hits, np.arange(8))]
    [0.489, 1.381]

    Raises:
        ValueError: ``theirs`` has no hit, so there is nothing to divide by.
    """
    known = float(np.mean(theirs))
    if known == 0:
        raise ValueError("The base has no hit on these rows, so a share of the base does not exist; give other rows.")
    drawn = cluster_bootstrap(
        [ours.astype(float), theirs.astype(float)], clusters, _ratio, resamples=resamples, seed=seed
    )
    plain = wilson(int(np.sum(ours)), len(ours))
    return wider(drawn, Interval(plain.lo / known, plain.hi / known))


def difference_interval(
    ours: np.ndarray, theirs: np.ndarray, clusters: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of mean(ours) - mean(theirs) of paired yes-or-no rows (n,).

    The wider of the paired cluster bootstrap and, since that has no width where no row changes, of Wilson's intervals
    of the rows that changed in one way and in the other, combined by Newcombe's square and add (1998).

    >>> hits = np.array([1.0, 1, 0, 0, 1, 1, 0, 1])
    >>> [round(end, 3) for end in difference_interval(hits, hits, np.arange(8))]
    [-0.324, 0.324]

    Raises:
        ValueError: no rows, or columns of unequal length.
    """
    gap = ours.astype(float) - theirs.astype(float)
    drawn = cluster_bootstrap([gap], clusters, resamples=resamples, seed=seed)
    return wider(drawn, newcombe_paired(int((gap > 0).sum()), int((gap < 0).sum()), len(gap)))


def newcombe_paired(more: int, fewer: int, n: int) -> Interval:
    """Interval of the difference of two paired shares from the rows that changed, by Newcombe's square and add (1998).

    >>> [round(end, 3) for end in newcombe_paired(0, 0, 8)]
    [-0.324, 0.324]

    Args:
        more: Rows in which the first is yes and the second no.
        fewer: Rows in which it is the other way round.
        n: All rows.

    Raises:
        ValueError: there are no rows.
    """
    up, down = wilson(more, n), wilson(fewer, n)
    value = (more - fewer) / n
    below = math.hypot(more / n - up.lo, down.hi - fewer / n)
    above = math.hypot(up.hi - more / n, fewer / n - down.lo)
    return Interval(max(-1.0, value - below), min(1.0, value + above))


def independent_difference(one: float, of_one: Interval, other: float, of_other: Interval) -> Interval:
    """The interval of ``other - one`` from those of two independent estimates, by Newcombe's square and add (1998).

    >>> interval = independent_difference(0.0, Interval(-0.3, 0.4), 1.0, Interval(0.7, 1.3))
    >>> round(interval.lo, 2), round(interval.hi, 2)
    (0.5, 1.42)
    """
    gap = other - one
    lo = gap - math.hypot(other - of_other.lo, of_one.hi - one)
    hi = gap + math.hypot(of_other.hi - other, one - of_one.lo)
    return Interval(lo, hi)


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0)
