"""Requests that are erased one after another: UA of every request after every step, and what comes back (rebound).

UnlearnCanvas (arXiv 2402.11846), sequential unlearning. The published script averages a growing prefix of requests into
one number; here every request keeps its own, with hits and n.
"""

from typing import NamedTuple

import numpy as np

from eval.formulas.intervals import difference_interval


class Sequence(NamedTuple):
    """Entry [j, i] is about request i after step j; above the diagonal, where i is not erased yet, counts are 0."""

    hits: np.ndarray  # (T, T) int, images in which the request no longer shows
    n: np.ndarray  # (T, T) int
    ua: np.ndarray  # (T, T) float, hits / n; NaN where n is 0


class Rebound(NamedTuple):
    """How far UA of a request fell between its own step and a later one; above 0: it comes back. Lower is better."""

    value: float
    lo: float
    hi: float
    n: int


def sequential(gone: np.ndarray, step: np.ndarray, request: np.ndarray) -> Sequence:
    """UA of each request after each step.

    >>> gone, step = np.array([True, False, True, True]), np.array([0, 1, 1, 0])
    >>> sequential(gone, step, np.array([0, 0, 1, 0])).ua.tolist()
    [[1.0, nan], [0.0, 1.0]]

    Args:
        gone: whether the request does not show in the image, (n,) bool.
        step: how many requests were erased before the last one, (n,) int from 0.
        request: which request the image asks for, (n,) int from 0, at most ``step``.

    Raises:
        ValueError: arrays of unequal length, a request that is not erased yet, or a step without images of a request.
    """
    if not len(gone) == len(step) == len(request):
        raise ValueError(
            f"Got {len(gone)} outcomes, {len(step)} steps and {len(request)} requests; give equal numbers."
        )
    if len(gone) == 0 or (request > step).any():
        raise ValueError(
            "Every image must ask for a request that is erased at its step; leave out the rows above the diagonal."
        )
    size = int(step.max()) + 1
    n, hits = np.zeros((size, size), int), np.zeros((size, size), int)
    np.add.at(n, (step, request), 1)
    np.add.at(hits, (step, request), gone.astype(int))
    absent = [(j, i) for j in range(size) for i in range(j + 1) if n[j, i] == 0]
    if absent:
        raise ValueError(f"There are no images of request {absent[0][1]} after step {absent[0][0]}; generate them.")
    return Sequence(hits, n, np.divide(hits, n, out=np.full((size, size), np.nan), where=n > 0))


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
