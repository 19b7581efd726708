"""Requests that are erased one after another: how far UA of a request falls again (rebound).

UnlearnCanvas (arXiv 2402.11846), sequential unlearning. The published script averages a growing prefix of requests into
one number; here every request keeps its own.
"""

from typing import NamedTuple

import numpy as np

from eval.formulas.intervals import difference_interval


class Rebound(NamedTuple):
    """How far UA of a request fell between its own step and a later one; above 0: it comes back. Lower is better."""

    value: float
    lo: float
    hi: float
    n: int


def rebound(before: np.ndarray, after: np.ndarray, prompt: np.ndarray, *, resamples: int = 1000) -> Rebound:
    """UA of a request right after its own step, minus UA of it after a later step; images paired by prompt and seed.

    >>> rebound(np.array([True, True, True, True]), np.array([True, False, True, False]), np.arange(4)).value
    0.5

    Args:
        before: whether the request does not show, right after its own step, (n,) bool.
        after: the same images after a later step, (n,) bool.
        prompt: number of the prompt of each image, (n,) int.
        resamples: of the bootstrap over prompts.

    Raises:
        ValueError: no images, or arrays of unequal length.
    """
    if len(before) == 0 or not len(before) == len(after) == len(prompt):
        raise ValueError(
            f"Got {len(before)} images before, {len(after)} after and {len(prompt)} prompts; "
            "give equal, non-zero numbers."
        )
    lo, hi = difference_interval(before, after, prompt, resamples=resamples)
    return Rebound(float(before.mean() - after.mean()), lo, hi, len(before))
