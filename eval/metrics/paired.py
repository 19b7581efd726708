"""Intervals for the difference of two proportions that were observed on the same rows; they have a width at 0 and 1.

R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
Statistics in Medicine 17 (1998) 2635-2650, method 10; for two independent
differences the same recovery of variances (MOVER).
"""

import math

import numpy as np

from eval.metrics.intervals import Interval, wilson


def newcombe(one: np.ndarray, other: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """The interval of the share of hits in ``other`` minus that in ``one``.

    The paper's example has 50 pairs, 36 hits in both, 12 and 2 in one only, none without; it gives 0.0569 to 0.3404.

    >>> first, second = np.repeat([1, 1, 0], [36, 12, 2]), np.repeat([1, 0, 1], [36, 12, 2])
    >>> interval = newcombe(second, first)
    >>> round(interval.lo, 4), round(interval.hi, 4)
    (0.0569, 0.3404)

    Args:
        one: (n,) hits as 0 and 1.
        other: (n,) the same rows of the other model.
        confidence: 0 to 1.

    Raises:
        ValueError: no rows, or different numbers of them.
    """
    n = len(one)
    if n == 0 or n != len(other):
        raise ValueError(f"Got {n} and {len(other)} rows; paired proportions need equal, non-zero numbers.")
    first, second = other.astype(bool), one.astype(bool)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    p_1, p_2 = float(first.mean()), float(second.mean())
    wilson_1 = wilson(int(first.sum()), n, confidence=confidence)
    wilson_2 = wilson(int(second.sum()), n, confidence=confidence)
    sides = first.sum() * (n - first.sum()) * second.sum() * (n - second.sum())
    cross = float(both * neither - only_first * only_second)
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross  # the correction for continuity of method 10
    phi = cross / math.sqrt(sides) if sides else 0.0
    down, up = p_1 - wilson_1.lo, wilson_2.hi - p_2
    lo = p_1 - p_2 - math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    down, up = wilson_1.hi - p_1, p_2 - wilson_2.lo
    hi = p_1 - p_2 + math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    return Interval(max(-1.0, lo), min(1.0, hi))


def independent_difference(one: float, of_one: Interval, other: float, of_other: Interval) -> Interval:
    """The interval of ``other - one`` from the intervals of two independent estimates.

    >>> interval = independent_difference(0.0, Interval(-0.3, 0.4), 1.0, Interval(0.7, 1.3))
    >>> round(interval.lo, 2), round(interval.hi, 2)
    (0.5, 1.42)
    """
    gap = other - one
    lo = gap - math.hypot(other - of_other.lo, of_one.hi - one)
    hi = gap + math.hypot(of_other.hi - other, one - of_one.lo)
    return Interval(lo, hi)
