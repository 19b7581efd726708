"""The cluster bootstrap of many models at once.

The resamples are drawn once for a number of clusters, and the resampled means of each model are made once. The
differences of N models are then differences of rows of numbers: N models cost about N, not N squared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eval.formulas.intervals import Interval
from eval.measure.view import Sample


SEED = 0
ENDS = (0.025, 0.975)
BLOCK = 128  # resamples whose counts are held as float64 at once: 31 MB for 30,000 prompts


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A sample with its resampled means.

    Attributes:
        sample: The sample.
        means: (R,), the mean of the values in each resample.
        ends: The central 95 % of the means.
        base_means: (R,), the same of the base; None where the base has no values.
        rows: Number of the set of clusters: samples with the same number have the same rows.
    """

    sample: Sample
    means: np.ndarray
    ends: Interval
    base_means: np.ndarray | None
    rows: int = 0


def resample(samples: Mapping[str, Sample], *, resamples: int) -> dict[str, Resampled]:
    """The resampled means of one metric of all models; models with the same clusters are resampled together."""
    sets: dict[bytes, list[str]] = {}
    for label, sample in samples.items():
        sets.setdefault(sample.clusters.tobytes(), []).append(label)
    resampled: dict[str, Resampled] = {}
    for number, labels in enumerate(sets.values()):
        columns: dict[bytes, np.ndarray] = {}  # all models of a group have one base
        for label in labels:
            for column in (samples[label].values, samples[label].base):
                if column is not None:
                    columns.setdefault(column.tobytes(), column)
        means = resampled_means(list(columns.values()), samples[labels[0]].clusters, resamples=resamples)
        places = {key: place for place, key in enumerate(columns)}
        ends = intervals(means)
        for label in labels:
            sample = samples[label]
            place = places[sample.values.tobytes()]
            base = None if sample.base is None else means[places[sample.base.tobytes()]]
            resampled[label] = Resampled(
                sample=sample, means=means[place], ends=ends[place], base_means=base, rows=number
            )
    return resampled


def resampled_means(columns: Sequence[np.ndarray], clusters: np.ndarray, *, resamples: int) -> np.ndarray:
    """The mean of each column in each resample, when whole clusters are drawn with replacement.

    >>> hits, clusters = np.array([1.0, 1, 0, 0]), np.array([0, 0, 1, 1])
    >>> sorted(set(resampled_means([hits], clusters, resamples=50)[0].tolist()))
    [0.0, 0.5, 1.0]

    Args:
        columns: k times (n,).
        clusters: The cluster of each row, (n,) int.
        resamples: How many.

    Returns:
        (k, resamples).

    Raises:
        ValueError: There are no rows, or the columns differ in length.
    """
    _check(columns, clusters)
    index = np.unique(clusters, return_inverse=True)[1]
    sums = _sums(columns, index)
    rows, *columns_sums = _times(draw_clusters(sums.shape[1], resamples), sums)
    return np.stack(columns_sums) / rows


def resampled_sums(
    columns: Sequence[np.ndarray], clusters: np.ndarray, *, total: int, is_left: bool, resamples: int
) -> np.ndarray:
    """The number of rows and the sums of the columns in each resample of two sets of clusters that are drawn together.

    Args:
        columns: k times (n,).
        clusters: The cluster of each row, (n,) int.
        total: Clusters of both sets.
        is_left: Whether these clusters are the first ones; otherwise they are the last ones.
        resamples: How many.

    Returns:
        (1 + k, resamples).
    """
    _check(columns, clusters)
    index = np.unique(clusters, return_inverse=True)[1]
    sums = _sums(columns, index)
    draws = draw_clusters(total, resamples)
    count = sums.shape[1]
    return _times(draws[:, :count] if is_left else draws[:, total - count :], sums)


def interval(values: np.ndarray) -> Interval:
    """The central 95 % of resampled values (R,); what is undefined (NaN) is left out."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(math.nan, math.nan)
    lo, hi = np.quantile(values, ENDS)
    return Interval(float(lo), float(hi))


def intervals(values: np.ndarray) -> list[Interval]:
    """The same of each row of (k, R)."""
    if np.isnan(values).any():
        return [interval(row) for row in values]
    lows, highs = np.quantile(values, ENDS, axis=1)
    return [Interval(lo, hi) for lo, hi in zip(lows.tolist(), highs.tolist(), strict=True)]


def _check(columns: Sequence[np.ndarray], clusters: np.ndarray) -> None:
    if len(clusters) == 0 or any(len(column) != len(clusters) for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"The columns have {lengths} rows for {len(clusters)} clusters; give equal, non-zero numbers.")


def _sums(columns: Sequence[np.ndarray], index: np.ndarray) -> np.ndarray:
    """The rows of each cluster, and the sum of each column in it: (1 + k, clusters)."""
    return np.stack([np.bincount(index).astype(float), *(np.bincount(index, weights=column) for column in columns)])


@lru_cache(maxsize=16)
def draw_clusters(count: int, resamples: int) -> np.ndarray:
    """How often each of ``count`` clusters is in each resample, (resamples, count), in the smallest type that fits."""
    draws = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws.astype(np.min_scalar_type(int(draws.max())))


def _times(draws: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Sums over resamples: (k, R)."""
    parts = [draws[start : start + BLOCK].astype(float) @ sums.T for start in range(0, len(draws), BLOCK)]
    return np.concatenate(parts).T
