"""How a number varies over independent trainings: the same erasure with several seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The mean over trainings, and how far they lie apart; an interval of one training knows nothing of the others."""

    mean: float
    sd: float  # of the sample, with n - 1; not of the mean
    lo: float  # the lowest value
    hi: float  # the highest value
    n: int  # trainings


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and range of one value per training.

    >>> spread([0.25, 0.5, 0.75])
    Spread(mean=0.5, sd=0.25, lo=0.25, hi=0.75, n=3)

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    found = np.asarray(values, np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        raise ValueError(f"Got {list(values)}; a spread over seeds needs 2 values or more, all of them finite.")
    return Spread(float(found.mean()), float(found.std(ddof=1)), float(found.min()), float(found.max()), len(found))
