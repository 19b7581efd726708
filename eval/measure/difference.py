"""The difference of one metric between two models, paired where their images are, with its interval."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from eval.formulas.intervals import (
    Interval,
    cluster_bootstrap,
    difference_interval,
    independent_difference,
    wider,
)


class Sample(NamedTuple):
    """A metric image by image (or prompt by prompt), so that two models can be compared in pairs."""

    values: np.ndarray  # (n,)
    base: np.ndarray | None  # (n,) the same of the base; None where the base has none
    clusters: np.ndarray  # (n,) int, the prompt of each
    is_share_of_base: bool = False  # the metric is 1 - mean(values) / mean(base), not mean(values)


def difference(a: Sample, b: Sample, *, paired: bool, resamples: int) -> dict[str, Any] | None:
    """The difference B - A of a metric with its 95 % interval.

    The interval is a bootstrap's over prompts; where every value is a yes or a no, it is the wider of that and
    Newcombe's, since a bootstrap has no width where all rows agree.

    Args:
        a: the metric of the first model.
        b: of the second.
        paired: row i of both is the same prompt and seed; otherwise the change of each against its own base counts.
        resamples: of the bootstrap.

    Returns:
        ``value``, ``lo``, ``hi``, ``n_images`` and ``ci_method``; None where unpaired models have no base to be
        measured against.

    >>> base, clusters = np.array([1.0, 1, 1, 1]), np.arange(4)
    >>> one, other = (Sample(np.array(hits, float), base, clusters) for hits in ([1, 1, 0, 0], [1, 1, 1, 0]))
    >>> difference(one, other, paired=True, resamples=200)["value"]
    0.25
    """
    if not paired and (a.base is None or b.base is None):
        return None
    gap = _paired(a, b) if paired else _unpaired(a, b)
    value = float(gap.statistic(*(np.array([column.mean()]) for column in gap.columns))[0])
    found = cluster_bootstrap(gap.columns, gap.clusters, gap.statistic, resamples=resamples)
    counted = _of_counts(a, b, paired=paired, resamples=resamples)
    lo, hi = wider(found, counted) if counted else found
    method = "wider of cluster bootstrap over prompts and Newcombe" if counted else "cluster bootstrap over prompts"
    return {"value": value, "lo": lo, "hi": hi, "n_images": len(gap.clusters), "ci_method": f"{method}, 95 %"}


class _Gap(NamedTuple):
    """What the bootstrap resamples, and the difference as a function of the columns' means."""

    columns: list[np.ndarray]
    clusters: np.ndarray
    statistic: Callable[..., np.ndarray]


def _paired(a: Sample, b: Sample) -> _Gap:
    if not a.is_share_of_base:
        return _Gap([a.values, b.values], a.clusters, lambda mean_a, mean_b: mean_b - mean_a)
    columns = [a.values, b.values, _base(a)]
    return _Gap(columns, a.clusters, lambda mean_a, mean_b, base: _ratio(mean_a - mean_b, base))


def _unpaired(a: Sample, b: Sample) -> _Gap:
    """Each model's prompts are drawn on their own: zeros keep the two sides apart, and ones count the rows drawn."""
    here, there = np.zeros(len(a.values)), np.zeros(len(b.values))
    columns = [np.concatenate([column, there]) for column in (a.values, _base(a), here + 1)]
    columns += [np.concatenate([here, column]) for column in (b.values, _base(b), there + 1)]
    clusters = np.concatenate([a.clusters, a.clusters.max() + 1 + b.clusters])
    return _Gap(columns, clusters, _share_gap if a.is_share_of_base else _mean_gap)


def _mean_gap(
    a: np.ndarray, base_a: np.ndarray, n_a: np.ndarray, b: np.ndarray, base_b: np.ndarray, n_b: np.ndarray
) -> np.ndarray:
    return _ratio(b - base_b, n_b) - _ratio(a - base_a, n_a)


def _share_gap(
    a: np.ndarray, base_a: np.ndarray, n_a: np.ndarray, b: np.ndarray, base_b: np.ndarray, n_b: np.ndarray
) -> np.ndarray:
    return _ratio(a, base_a) - _ratio(b, base_b)


def _of_counts(a: Sample, b: Sample, *, paired: bool, resamples: int) -> Interval | None:
    """The interval of a difference that also has a width where all rows agree; None where not all are yes or no."""
    if not (_is_binary(a.values) and _is_binary(b.values)):
        return None
    if paired:
        gap = difference_interval(b.values, a.values, a.clusters, resamples=resamples)
        return _of_share(gap, a) if a.is_share_of_base else gap
    changes = []
    for side in (a, b):
        gap = difference_interval(side.values, _base(side), side.clusters, resamples=resamples)
        value = float((side.values - _base(side)).mean())
        share = side.is_share_of_base
        changes.append((-value / float(_base(side).mean()), _of_share(gap, side)) if share else (value, gap))
    return independent_difference(*changes[0], *changes[1])


def _of_share(gap: Interval, sample: Sample) -> Interval:
    """The interval of 1 - share / base from that of the share; more of the target is less of the erasure."""
    known = float(_base(sample).mean())
    return Interval(-gap.hi / known, -gap.lo / known)


def _base(sample: Sample) -> np.ndarray:
    if sample.base is None:
        raise ValueError("The metric has no value for the base; compare models of one target.")
    return sample.base


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.divide(one, other, out=np.full_like(one, np.nan), where=other > 0)
