"""A share corrected for the errors of the judge that counted it.

Rogan and Gladen (1978): TP = (p + specificity - 1) / (sensitivity + specificity - 1), p being the apparent share. The
closed interval is Lang and Reiczigel's (2014); a bootstrap over prompts with a resampled judge stands beside it, since
images of one prompt resemble each other.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.formulas.intervals import Interval, cluster_bootstrap, wider


class Rate(NamedTuple):
    """Counted successes of the judge."""

    hits: int
    n: int


class Corrected(NamedTuple):
    """The corrected share, cut to [0, 1], with an interval that knows the judge's own uncertainty."""

    value: float
    lo: float
    hi: float


def rogan_gladen(share: float | np.ndarray, sensitivity: float, specificity: float) -> np.ndarray:
    """The share of true positives behind an apparent share, cut to [0, 1].

    >>> float(rogan_gladen(0.1 * 0.9 + 0.9 * 0.2, 0.9, 0.8).round(6))
    0.1

    Raises:
        ValueError: the judge is no better than chance, sensitivity + specificity <= 1.
    """
    _require_better_than_chance(sensitivity, specificity)
    return np.clip((share + specificity - 1) / (sensitivity + specificity - 1), 0, 1)


def corrected_share(
    hit: np.ndarray, prompt: np.ndarray, *, sensitivity: Rate, specificity: Rate, resamples: int = 1000
) -> Corrected:
    """The corrected share of hits (n,) bool, with a 95 % interval.

    >>> hit, prompt = np.arange(100) < 27, np.arange(100)
    >>> found = corrected_share(hit, prompt, sensitivity=Rate(90, 100), specificity=Rate(80, 100))
    >>> [round(value, 2) for value in found]
    [0.1, 0.0, 0.26]

    Args:
        hit: whether the judge sees the concept, (n,) bool.
        prompt: number of the prompt of each image, (n,) int.
        sensitivity: images that show the concept: in how many of how many the judge sees it.
        specificity: images that do not show it: in how many of how many the judge does not see it.
        resamples: of the bootstrap.

    Raises:
        ValueError: no images, or a judge that is no better than chance.
    """
    right = [rate.hits / rate.n for rate in (sensitivity, specificity)]
    value = float(rogan_gladen(float(np.mean(hit)), *right))
    rng = np.random.default_rng(0)
    # Jeffreys' posterior, so that a judge without an error is not taken for infallible
    drawn = [rng.beta(rate.hits + 0.5, rate.n - rate.hits + 0.5, resamples) for rate in (sensitivity, specificity)]

    def correct(share: np.ndarray) -> np.ndarray:
        power = drawn[0] + drawn[1] - 1
        return np.clip(np.divide(share + drawn[1] - 1, power, out=np.full_like(share, np.nan), where=power > 0), 0, 1)

    bootstrap = cluster_bootstrap([hit.astype(float)], prompt, correct, resamples=resamples)
    lo, hi = wider(lang_reiczigel(int(np.sum(hit)), len(hit), sensitivity, specificity), bootstrap)
    return Corrected(value, min(lo, value), max(hi, value))


def lang_reiczigel(hits: int, n: int, sensitivity: Rate, specificity: Rate, *, confidence: float = 0.95) -> Interval:
    """Lang and Reiczigel's interval (Prev. Vet. Med. 113, 2014) of a corrected share; images count as independent.

    >>> [round(end, 3) for end in lang_reiczigel(0, 100, Rate(100, 100), Rate(100, 100))]
    [0.0, 0.041]

    Raises:
        ValueError: a judge that is no better than chance.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    sens, spec = ((rate.hits + 1) / (rate.n + 2) for rate in (sensitivity, specificity))
    _require_better_than_chance(sens, spec)
    share = (hits + z * z / 2) / (n + z * z)
    centre = (share + spec - 1) / (sens + spec - 1)
    of_sens, of_spec = sens * (1 - sens) / (sensitivity.n + 2), spec * (1 - spec) / (specificity.n + 2)
    shift = 2 * z * z * (centre * of_sens - (1 - centre) * of_spec)
    spread = share * (1 - share) / (n + z * z) + centre**2 * of_sens + (1 - centre) ** 2 * of_spec
    half = z * math.sqrt(spread) / (sens + spec - 1)
    return Interval(min(1.0, max(0.0, centre + shift - half)), max(0.0, min(1.0, centre + shift + half)))


def _require_better_than_chance(sensitivity: float, specificity: float) -> None:
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"The judge has sensitivity {sensitivity:.2f} and specificity {specificity:.2f}, no better than chance; "
            "use another judge."
        )
