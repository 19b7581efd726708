"""The lowest and the tenth percentile of the accuracies of what is not erased."""

from collections.abc import Callable

import numpy as np

from eval.formulas.worst import Worst, worst_concept
from eval.measure.concepts import AXES, IS_RIGHT
from eval.measure.view import Metric, View
from eval.measurements import Estimate


JOINT = "Wilson, joint over all concepts (Sidak), 95 %"


def order_statistic(worst: Worst, *, n_images: int) -> Estimate:
    """The estimate of an order statistic of concepts."""
    return Estimate(
        value=worst.value,
        lo=worst.lo,
        hi=worst.hi,
        method=JOINT,
        n_images=n_images,
        hits=worst.hits,
        n=worst.n,
        about={"concept": worst.concept, "concepts": worst.concepts},
    )


def _worst(quantile: float) -> Callable[[View], Estimate]:
    def distance(view: View) -> Estimate:
        rows, world = view.retain, view.evidence.world
        asked = {axis: rows[axis] for axis in AXES}
        hit = np.concatenate([rows.once(IS_RIGHT[axis]) for axis in AXES])
        counted = np.concatenate(
            [~np.isin(asked[axis], [] if axis == "object" else world.uncounted_styles) for axis in AXES]
        )
        concept = np.concatenate([asked[axis] for axis in AXES])
        return order_statistic(worst_concept(hit[counted], concept[counted], quantile=quantile), n_images=len(rows))

    return distance


METRICS = [
    Metric(
        key="worst_retained",
        title="Worst other concept",
        direction="up",
        unit="share",
        definition="lowest accuracy of a style or an object that is not erased",
        needs=("judge_style", "judge_object"),
        distance=_worst(0.0),
        kinds=("grid",),
        aspect="general_image",
        is_always=True,
    ),
    Metric(
        key="tenth_percentile_retained",
        title="10th percentile, other concepts",
        direction="up",
        unit="share",
        definition="of the accuracies of styles and objects",
        needs=("judge_style", "judge_object"),
        distance=_worst(0.1),
        kinds=("grid",),
        aspect="general_image",
        is_always=True,
    ),
]
