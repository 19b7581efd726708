"""Estimates with their intervals: a share, a mean, a share of the base's, the normalised erasure."""

import numpy as np

from eval.formulas.intervals import Interval, wider, wilson
from eval.measure.bootstrap import Resampled, interval, resample
from eval.measure.view import Sample
from eval.measurements import Estimate


PROPORTION = "wider of Wilson and cluster bootstrap, 95 %"
RATIO = "wider of paired cluster bootstrap and Wilson over base, 95 %"
BOOTSTRAP = "cluster bootstrap over prompts, 95 %"
UNPAIRED = "Newcombe's square and add of both intervals, 95 %"
WILSON = "Wilson, 95 %"


def not_run(why: str, *, n_images: int = 0, n_prompts: int | None = None) -> Estimate:
    """An estimate that could not be made: why, and no number."""
    return Estimate(value=None, not_run=why, n_images=n_images, n_prompts=n_prompts)


def proportion(hit: np.ndarray, clusters: np.ndarray, *, resamples: int) -> Estimate:
    """A share with its interval; see ``estimate``.

    >>> proportion(np.array([True, False, False, True]), np.arange(4), resamples=100).hits
    2

    Args:
        hit: (n,) bool.
        clusters: The prompt of each row, (n,) int.
        resamples: Of the bootstrap.
    """
    return estimate_sample(Sample(values=hit, base=None, clusters=clusters), resamples=resamples)


def estimate_sample(sample: Sample, *, resamples: int) -> Estimate:
    """The estimate of one sample; see ``estimate``."""
    return estimate(resample({"": sample}, resamples=resamples)[""])


def estimate(resampled: Resampled) -> Estimate:
    """The estimate of a sample.

    A yes or no per image has the wider of Wilson's interval and the bootstrap's: the bootstrap has no width at 0 and
    100 %, and Wilson's interval knows no prompts. Everything else has the bootstrap's.
    """
    if resampled.sample.is_share_of_base:
        return _erasure(resampled)
    values = resampled.sample.values
    ends, method, hits = resampled.ends, BOOTSTRAP, None
    if values.dtype == bool:
        hits, method = int(values.sum()), PROPORTION
        ends = wider(wilson(hits, len(values)), ends)
    return _about(resampled.sample, float(values.mean()), ends, method=method, hits=hits)


def share_of_base(resampled: Resampled) -> Estimate | None:
    """A share as a share of the base's, image by image; None where it is no yes or no, or the base has no hit."""
    sample, base_means = resampled.sample, resampled.base_means
    if sample.is_share_of_base or sample.values.dtype != bool or sample.base is None or base_means is None:
        return None
    if not sample.base.any():
        return None
    share, plain = float(sample.base.mean()), wilson(int(sample.values.sum()), len(sample.values))
    ends = wider(interval(ratio(resampled.means, base_means)), Interval(plain.lo / share, plain.hi / share))
    return _about(sample, float(sample.values.mean()) / share, ends, method=RATIO, hits=None)


def ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One by the other, NaN where the other is 0."""
    return np.divide(one, other, out=np.full_like(one, np.nan), where=other > 0)


def _erasure(resampled: Resampled) -> Estimate:
    """1 - share of images with the target / that of the base, paired."""
    sample, base_means = resampled.sample, resampled.base_means
    if sample.base is None or base_means is None or not sample.base.any():
        raise ValueError("The base never shows the target, so nothing can be a share of what it shows.")
    share = float(sample.base.mean())
    ends, method = interval(1 - ratio(resampled.means, base_means)), BOOTSTRAP
    if sample.values.dtype == bool:
        plain, method = wilson(int(sample.values.sum()), len(sample.values)), PROPORTION
        ends = wider(ends, Interval(1 - plain.hi / share, min(1.0, 1 - plain.lo / share)))
    return _about(sample, 1 - float(sample.values.mean()) / share, ends, method=method, hits=None)


def _about(sample: Sample, value: float, ends: Interval, *, method: str, hits: int | None) -> Estimate:
    return Estimate(
        value=value,
        lo=ends.lo,
        hi=ends.hi,
        method=method,
        n_images=len(sample.values) if sample.n_images is None else sample.n_images,
        n_prompts=len(np.unique(sample.clusters)),
        hits=hits,
        n=None if sample.n_images is None else len(sample.values),
        about=sample.about,
    )
