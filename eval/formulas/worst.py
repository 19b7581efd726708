"""The lowest and the tenth percentile of a share over concepts, with intervals that allow for having looked at all."""

from typing import NamedTuple

import numpy as np

from eval.formulas.intervals import wilson


class Worst(NamedTuple):
    """An order statistic of the concepts' shares; ``concept`` is the one nearest to it from below."""

    value: float
    lo: float
    hi: float
    concept: str
    hits: int  # of that concept
    n: int  # of that concept
    concepts: int


def worst_concept(hit: np.ndarray, concept: np.ndarray, *, quantile: float = 0.0, confidence: float = 0.95) -> Worst:
    """A quantile over concepts of each concept's share of hits; 0 is the lowest, 0.1 the tenth percentile.

    Both ends of the interval are the same quantile, of the lower and of the upper ends of all concepts' Wilson
    intervals. Those hold jointly (Sidak: each at ``confidence ** (1 / m)`` for m concepts), and a quantile never falls
    when a share rises, so the interval covers the quantile of the true shares at least as often.

    >>> concept = np.repeat(["Cats", "Dogs", "Trees"], 4)
    >>> found = worst_concept(np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0], bool), concept)
    >>> found.concept, found.value, (found.hits, found.n)
    ('Dogs', 0.25, (1, 4))

    Args:
        hit: (n,) bool.
        concept: the concept of each row, (n,) names.
        quantile: 0 to 1.
        confidence: of the joint interval.

    Raises:
        ValueError: no rows, or a quantile outside 0 and 1.
    """
    names, index, n = np.unique(concept, return_inverse=True, return_counts=True)
    if len(names) == 0 or not 0 <= quantile <= 1:
        raise ValueError(
            f"Got {len(names)} concepts and the quantile {quantile}; give rows and a quantile from 0 to 1."
        )
    hits = np.bincount(index, weights=hit.astype(float)).astype(int)
    shares = hits / n
    value = float(np.quantile(shares, quantile))
    each = [wilson(int(k), int(m), confidence=confidence ** (1 / len(names))) for k, m in zip(hits, n, strict=True)]
    lo, hi = (float(np.quantile([interval[end] for interval in each], quantile)) for end in (0, 1))
    below = np.flatnonzero(shares <= value + 1e-12)
    place = int(below[shares[below].argmax()])
    return Worst(value, lo, hi, str(names[place]), int(hits[place]), int(n[place]), len(names))
