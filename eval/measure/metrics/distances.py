"""Distances between the sets of images of two models, or to photographs."""

from collections.abc import Callable

import numpy as np

from eval.formulas.cmmd import cmmd
from eval.formulas.frechet import GROUPS, frechet_distance, frechet_interval
from eval.formulas.kid import kernel_distance
from eval.limits import FID_FLOOR
from eval.measure.estimates import not_run
from eval.measure.titles import name_clip, name_weights, name_world
from eval.measure.view import Metric, View, is_not_base
from eval.measurements import Estimate


SUBSETS = "central 95 % of random halves of at most 1,000 images"
GROUPED = f"jackknife over {GROUPS} groups of prompts, 95 %; of the sampling noise, not of the bias by n"
JACKKNIFE = "jackknife over prompts, 95 %"
INCEPTION = "torchmetrics Inception 2048, bilinear 299, antialias"
NO_REAL_IMAGES = "the suite names no folder of real images"
NO_GOLD = "there is no gold model of this target"
ASPECT = "general_image"


def frechet(
    ours: np.ndarray, theirs: np.ndarray, *, prompts: np.ndarray, other_prompts: np.ndarray | None = None
) -> Estimate:
    """Frechet distance between features (n, D), with the interval of ``frechet_interval``, which names the arguments.

    Raises:
        ValueError: Not more images on a side than features have dimensions.
    """
    value = frechet_distance(ours, theirs)
    sides = [each for each in (prompts, other_prompts) if each is not None]
    if min(len(np.unique(each)) for each in sides) < GROUPS:
        return Estimate(value=value, method=f"none: fewer than {GROUPS} prompts", n_images=len(ours))
    lo, hi = frechet_interval(ours, theirs, prompts, other_prompts)
    return Estimate(value=value, lo=lo, hi=hi, method=GROUPED, n_images=len(ours))


def inception_fid(
    ours: np.ndarray, theirs: np.ndarray, *, prompts: np.ndarray, other_prompts: np.ndarray | None = None
) -> Estimate:
    """FID between Inception features (n, 2048); see ``frechet``.

    Raises:
        ValueError: Fewer than ``FID_FLOOR`` images on a side.
    """
    if min(len(ours), len(theirs)) < FID_FLOOR:
        raise ValueError(
            f"FID of {len(ours)} images says more about n than about the model, {FID_FLOOR} are needed; "
            "read KID, which is unbiased, instead."
        )
    return frechet(ours, theirs, prompts=prompts, other_prompts=other_prompts)


def kid(ours: np.ndarray, theirs: np.ndarray, *, is_paired: bool = True) -> Estimate:
    """KID between features (n, D), with the spread of random halves of at most 1,000 images.

    ``is_paired``: row i of both has the same prompt and noise, as images of two models have.

    Raises:
        ValueError: Fewer than 16 images on a side.
    """
    distance = kernel_distance(ours, theirs, is_paired=is_paired)
    return Estimate(value=distance.value, lo=distance.lo, hi=distance.hi, method=SUBSETS, n_images=len(ours))


def _cmmd(ours: np.ndarray, theirs: np.ndarray, *, prompts: np.ndarray) -> Estimate:
    distance = cmmd(ours, theirs, prompts)
    return Estimate(value=distance.value, lo=distance.lo, hi=distance.hi, method=JACKKNIFE, n_images=len(ours))


def _guard(distance: Callable[[], Estimate], n_images: int) -> Estimate:
    """A distance, or its own reason why there are too few images for it."""
    try:
        return distance()
    except ValueError as error:
        return not_run(str(error), n_images=n_images)


def _to_base(array: str, formula: Callable[..., Estimate], *, by_prompt: bool) -> Callable[[View], Estimate]:
    """The distance to the base of other prompts' images in a grid, and of all images of prompt files."""

    def distance(view: View) -> Estimate:
        rows = view.retain if view.evidence.suite.grid else view
        settings = {"prompts": rows.clusters} if by_prompt else {}
        ours, theirs = rows.scores.arrays[array], rows.base.arrays[array]
        return _guard(lambda: formula(ours, theirs, **settings), len(ours))

    return distance


def _is_not_gold(view: View) -> bool:
    return view.model.role != "gold"


def _gold(view: View) -> Estimate:
    """The distance of target images to those of a model that never saw the target."""
    rows = view.forget
    if rows.gold is None:
        return not_run(NO_GOLD)
    ours, gold = rows.scores.arrays["judge"], rows.gold.arrays["judge"]
    return _guard(lambda: kid(ours, gold), len(ours))


def _real_fid(view: View) -> Estimate:
    """The distance to photographs, each of which belongs to no prompt."""
    ours, real = view.scores.arrays["inception"], view.evidence.real.get("inception")
    if real is None:
        return not_run(NO_REAL_IMAGES)
    own = np.arange(len(real))
    return _guard(lambda: inception_fid(ours, real, prompts=view.clusters, other_prompts=own), len(ours))


def _real_kid(view: View) -> Estimate:
    ours, real = view.scores.arrays["inception"], view.evidence.real.get("inception")
    if real is None:
        return not_run(NO_REAL_IMAGES)
    return _guard(lambda: kid(ours, real, is_paired=False), len(ours))


def _of_judge(key: str, title: str, definition: str, distance: Callable[[View], Estimate | None]) -> Metric:
    return Metric(
        key=key,
        title=title,
        direction="down",
        unit="distance",
        definition=definition,
        needs=("array:judge",),
        distance=distance,
        kinds=("grid",),
        exists=_is_not_gold if key == "kid_gold" else is_not_base,
        aspect="target_image" if key == "kid_gold" else "",
        adapt=name_world,
    )


def _of_inception(key: str, title: str, definition: str, distance: Callable[[View], Estimate | None]) -> Metric:
    is_grid = key in ("fid", "kid_inception")
    return Metric(
        key=key,
        title=f"{title} ({INCEPTION})",
        direction="down",
        unit="distance",
        definition=definition,
        needs=("array:inception",),
        distance=distance,
        kinds=("grid",) if is_grid else ("prompts",),
        aspect=ASPECT if is_grid else "",
        exists=None if "real" in key else is_not_base,
        is_damage=not is_grid,
        adapt=name_weights("inception"),
    )


FD, KD = "Frechet distance", "kernel distance"
FID, KID = _to_base("inception", inception_fid, by_prompt=True), _to_base("inception", kid, by_prompt=False)
SAME_ROWS = "the base's images of the same rows"

METRICS = [
    _of_judge(
        "fd_canvas",
        "fd_{world}",
        f"{FD} to base, judge features, prompts without the target",
        _to_base("judge", frechet, by_prompt=True),
    ),
    _of_judge(
        "kid_canvas",
        "kid_{world}",
        f"{KD} to base, judge features, prompts without the target",
        _to_base("judge", kid, by_prompt=False),
    ),
    _of_judge("kid_gold", "kid_{world} to gold", f"{KD} of target images to gold's, judge features", _gold),
    _of_inception("fid", "FID", f"{FD} to base, other prompts", FID),
    _of_inception("kid_inception", "KID", f"{KD} to base, other prompts", KID),
    _of_inception("fid_base", "FID to base", f"{FD} to {SAME_ROWS}", FID),
    _of_inception("kid_base", "KID to base", f"{KD} to {SAME_ROWS}", KID),
    _of_inception("fid_real", "FID to real images", f"{FD} to the user's photographs", _real_fid),
    _of_inception("kid_real", "KID to real images", f"{KD} to the user's photographs", _real_kid),
    Metric(
        key="cmmd",
        title="CMMD",
        direction="down",
        unit="distance",
        definition="1000 x squared MMD of CLIP image features to base, other prompts",
        needs=("array:clip",),
        distance=_to_base("clip", _cmmd, by_prompt=True),
        kinds=("grid",),
        aspect=ASPECT,
        exists=is_not_base,
        adapt=name_clip,
    ),
]
