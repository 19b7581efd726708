"""Distances between sets of features as estimates of a report: a number with its method, or why there is none."""

from collections.abc import Callable
from typing import Any

import numpy as np

from eval.formulas.frechet import GROUPS, frechet_distance, frechet_interval
from eval.formulas.kid import kernel_distance


SUBSETS = "central 95 % of random halves of at most 1,000 images"
GROUPED = f"jackknife over {GROUPS} groups of prompts, 95 %; of the sampling noise, not of the bias by n"
FID_FLOOR = 2049  # images a side: below it the covariance of 2048 features has no full rank


def frechet(
    ours: np.ndarray, theirs: np.ndarray, *, prompts: np.ndarray, other_prompts: np.ndarray | None = None
) -> dict[str, Any]:
    """Frechet distance between features (n, D), with the interval of ``frechet_interval``, which names the arguments.

    Raises:
        ValueError: not more images on a side than features have dimensions.
    """
    value = frechet_distance(ours, theirs)
    if min(len(np.unique(each)) for each in (prompts, other_prompts) if each is not None) < GROUPS:
        return {"value": value, "lo": None, "hi": None, "ci_method": f"none: fewer than {GROUPS} prompts"}
    lo, hi = frechet_interval(ours, theirs, prompts, other_prompts)
    return {"value": value, "lo": lo, "hi": hi, "ci_method": GROUPED}


def inception_fid(
    ours: np.ndarray, theirs: np.ndarray, *, prompts: np.ndarray, other_prompts: np.ndarray | None = None
) -> dict[str, Any]:
    """FID between Inception features (n, 2048); see ``frechet``.

    Raises:
        ValueError: fewer than ``FID_FLOOR`` images on a side.
    """
    if min(len(ours), len(theirs)) < FID_FLOOR:
        raise ValueError(
            f"FID of {len(ours)} images says more about n than about the model, {FID_FLOOR} are needed; "
            "read KID, which is unbiased, instead."
        )
    return frechet(ours, theirs, prompts=prompts, other_prompts=other_prompts)


def kid(ours: np.ndarray, theirs: np.ndarray, *, is_paired: bool = True) -> dict[str, Any]:
    """KID between features (n, D), with the spread of random halves of at most 1,000 images.

    ``is_paired``: row i of both has the same prompt and noise, as images of two models have.

    Raises:
        ValueError: fewer than 16 images on a side.
    """
    found = kernel_distance(ours, theirs, is_paired=is_paired)
    return {"value": found.value, "lo": found.lo, "hi": found.hi, "ci_method": SUBSETS}


def not_run(why: str) -> dict[str, Any]:
    """An estimate that could not be made: why, and no number."""
    return {"value": None, "not_run": why, "n_images": 0}


def or_not_run(measure_: Callable[..., dict[str, Any]], ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """A measure of two sets of features (n, D), or its own reason why there are too few for a number."""
    try:
        return measure_(ours, theirs) | {"n_images": len(ours), "n": len(ours)}
    except ValueError as error:
        return not_run(str(error)) | {"n_images": len(ours)}
