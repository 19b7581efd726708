"""The difference of one metric between two models, paired where their images are, with its interval.

Models of one target and one base have the same rows, so they are compared image by image. Models of other groups have
other images of the target: there each model's change against its own base is compared, unpaired.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from eval.formulas.intervals import Interval, independent_difference, newcombe_paired, wider
from eval.measure.bootstrap import Resampled, interval, intervals, resampled_sums
from eval.measure.estimates import BOOTSTRAP, ratio
from eval.measure.view import Sample
from eval.measurements import Difference
from eval.results import ModelInfo


COUNTED = "wider of cluster bootstrap over prompts and Newcombe, 95 %"
Pair = tuple[str, str]  # labels of two models: the difference is that of the second minus that of the first


def compare_pairs(models: Sequence[ModelInfo]) -> list[Pair]:
    """The pairs of models that are compared: all but two bases, in the order of the models."""
    return [(a.label, b.label) for a, b in combinations(models, 2) if not a.role == b.role == "base"]


def measure_changes(resampled: Mapping[str, Resampled]) -> dict[str, Difference]:
    """The paired difference of every model to its base, and of a base to itself; none where the base has no values."""
    bases = {
        label: _Side(each.sample.base, each.base_means)
        for label, each in resampled.items()
        if each.sample.base is not None and each.base_means is not None
    }
    if not bases:
        return {}
    ends = intervals(np.stack([_gaps(base, resampled[label]) for label, base in bases.items()]))
    return {
        label: _difference(base, resampled[label], own) for (label, base), own in zip(bases.items(), ends, strict=True)
    }


def differences(
    resampled: Mapping[str, Resampled], models: Sequence[ModelInfo], changes: Mapping[str, Difference]
) -> dict[Pair, Difference]:
    """The differences of one metric of all pairs of models that have it, second minus first, with 95 % intervals.

    The interval is a bootstrap's over prompts; where every value is a yes or a no, it is the wider of that and
    Newcombe's, since a bootstrap has no width where all rows agree.

    >>> from eval.measure.bootstrap import resample
    >>> models = [ModelInfo(label=label, role="erased") for label in "ab"]
    >>> values = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([1, 1, 1, 0], bool)}
    >>> samples = {label: Sample(values=each, base=None, clusters=np.arange(4)) for label, each in values.items()}
    >>> differences(resample(samples, resamples=200), models, {})["a", "b"].value
    0.25

    Args:
        resampled: Label -> sample with its resampled means.
        models: All of them.
        changes: What ``measure_changes`` gave.

    Returns:
        Pair -> difference. A pair of two groups has none where the base has no values.
    """
    about = {model.label: model for model in models}
    pairs = [(a, b) for a, b in compare_pairs(models) if a in resampled and b in resampled]
    same = [pair for pair in pairs if about[pair[0]].group == about[pair[1]].group]
    gaps: dict[Pair, Difference] = {(a, b): changes[b] for a, b in same if about[b].base == a and b in changes}
    paired = [(a, b) for a, b in same if (a, b) not in gaps and resampled[a].rows == resampled[b].rows]
    if paired:
        sides = {label: _side_of(resampled[label]) for label in {a for a, _ in paired}}
        values = np.stack([_gaps(sides[a], resampled[b]) for a, b in paired])
        for (a, b), ends in zip(paired, intervals(values), strict=True):
            gaps[a, b] = _difference(sides[a], resampled[b], ends)
    groups = {label: model.group for label, model in about.items()}
    gaps |= _unpaired([pair for pair in pairs if groups[pair[0]] != groups[pair[1]]], resampled, changes)
    return {pair: gaps[pair] for pair in pairs if pair in gaps}


class _Side(NamedTuple):
    """What a model is compared with."""

    values: np.ndarray  # (n,)
    means: np.ndarray  # (R,)


def _side_of(resampled: Resampled) -> _Side:
    return _Side(resampled.sample.values, resampled.means)


def _gaps(a: _Side, b: Resampled) -> np.ndarray:
    """The difference of two models with the same rows in each resample, (R,)."""
    if b.sample.is_share_of_base and b.base_means is not None:
        return ratio(a.means - b.means, b.base_means)
    return b.means - a.means


def _difference(a: _Side, b: Resampled, ends: Interval) -> Difference:
    """The paired difference, given the bootstrap's interval."""
    one, other = a.values, b.sample.values
    value, is_counted = float(other.mean() - one.mean()), one.dtype == other.dtype == bool
    if is_counted:
        counted = newcombe_paired(int((other & ~one).sum()), int((one & ~other).sum()), len(one))
        if b.sample.is_share_of_base:
            counted = _of_share(wider(counted, interval(b.means - a.means)), b)
        ends = wider(ends, counted)
    return Difference(
        value=-value / _shown(b) if b.sample.is_share_of_base else value,
        lo=ends.lo,
        hi=ends.hi,
        method=COUNTED if is_counted else BOOTSTRAP,
        n_images=len(one),
        paired=True,
    )


def _unpaired(
    pairs: Sequence[Pair], resampled: Mapping[str, Resampled], changes: Mapping[str, Difference]
) -> dict[Pair, Difference]:
    """Each model's change against its own base, compared; the prompts of both sides are drawn on their own."""
    pairs = [(a, b) for a, b in pairs if a in changes and b in changes]
    if not pairs:
        return {}
    labels = {label for pair in pairs for label in pair}
    counts = {label: len(np.unique(resampled[label].sample.clusters)) for label in labels}
    own = {label: _own_change(resampled[label], changes[label]) for label in labels}
    sides: dict[tuple[str, int, bool], np.ndarray] = {}
    gaps = []
    for a, b in pairs:
        total = counts[a] + counts[b]
        for label, is_left in ((a, True), (b, False)):
            if (label, total, is_left) not in sides:
                sides[label, total, is_left] = _side(resampled[label], total=total, is_left=is_left)
        gaps.append(sides[b, total, False] - sides[a, total, True])
    return {
        (a, b): _independent(resampled[a], resampled[b], ends, (own[a], own[b]))
        for (a, b), ends in zip(pairs, intervals(np.stack(gaps)), strict=True)
    }


def _side(resampled: Resampled, *, total: int, is_left: bool) -> np.ndarray:
    """The change against the base in each resample of the clusters of two groups together, (R,)."""
    sample = resampled.sample
    rows, values, base = resampled_sums(
        [sample.values, _base(sample)], sample.clusters, total=total, is_left=is_left, resamples=len(resampled.means)
    )
    return -ratio(values, base) if sample.is_share_of_base else ratio(values - base, rows)


def _independent(a: Resampled, b: Resampled, ends: Interval, own: tuple[Interval, Interval]) -> Difference:
    """The difference of two changes, given the bootstrap's interval and that of each change."""
    one, other = (_change_value(each) for each in (a, b))
    is_counted = a.sample.values.dtype == b.sample.values.dtype == bool
    if is_counted:
        ends = wider(ends, independent_difference(one, own[0], other, own[1]))
    return Difference(
        value=other - one,
        lo=ends.lo,
        hi=ends.hi,
        method=COUNTED if is_counted else BOOTSTRAP,
        n_images=len(a.sample.values) + len(b.sample.values),
        paired=False,
    )


def _own_change(resampled: Resampled, gap: Difference) -> Interval:
    """The interval of a model's change against its base; of a share of the base's, given what the base shows."""
    sample, base_means = resampled.sample, resampled.base_means
    if not sample.is_share_of_base or sample.values.dtype != bool or base_means is None:
        return Interval(gap.lo, gap.hi)
    values, base = sample.values, _base(sample)
    counted = newcombe_paired(int((values & ~base).sum()), int((base & ~values).sum()), len(values))
    return _of_share(wider(counted, interval(resampled.means - base_means)), resampled)


def _change_value(resampled: Resampled) -> float:
    values, base = resampled.sample.values.astype(float), _base(resampled.sample).astype(float)
    value = float((values - base).mean())
    return -value / _shown(resampled) if resampled.sample.is_share_of_base else value


def _of_share(gap: Interval, resampled: Resampled) -> Interval:
    """The interval of 1 - share / base from that of the share; more of the target is less of the erasure."""
    shown = _shown(resampled)
    return Interval(-gap.hi / shown, -gap.lo / shown)


def _shown(resampled: Resampled) -> float:
    return float(_base(resampled.sample).mean())


def _base(sample: Sample) -> np.ndarray:
    if sample.base is None:
        raise ValueError("The metric has no value for the base; compare models of one target.")
    return sample.base
