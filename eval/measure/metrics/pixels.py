"""What the pixels alone say: broken images, and images that are the base's."""

import numpy as np

from eval.measure.view import Metric, Sample, View, is_not_base


def is_broken(view: View) -> np.ndarray:
    """Whether each image is broken, (n,) bool."""
    return np.array([bool(row["broken"]) for row in view.rows], bool)


def _retain(view: View) -> Sample:
    return view.retain.sample(is_broken)


def _target(view: View) -> Sample:
    return view.forget.sample(is_broken)


def _all(view: View) -> Sample:
    return view.sample(is_broken)


def _unchanged(view: View) -> Sample:
    rows = view.retain
    return Sample(values=np.array(rows["same_as_base"], bool), base=None, clusters=rows.clusters)


METRICS = [
    Metric(
        key="collapse_retain",
        title="Collapsed, other prompts",
        direction="down",
        unit="share",
        definition="share of broken images, prompts without the target",
        sample=_retain,
        kinds=("grid",),
        has_share=False,
    ),
    Metric(
        key="collapse_target",
        title="Collapsed, target prompts",
        direction="down",
        unit="share",
        definition="share of broken images, prompts with the target",
        sample=_target,
        kinds=("grid",),
        has_share=False,
    ),
    Metric(
        key="unchanged",
        title="Unchanged images",
        direction="none",
        unit="share",
        definition="share of images equal to base bit by bit, prompts without the target",
        sample=_unchanged,
        kinds=("grid",),
        exists=is_not_base,
        has_share=False,
    ),
    Metric(
        key="broken",
        title="Broken images",
        direction="down",
        unit="share",
        definition="share of images that are blank, saturated, nearly empty or a copy",
        sample=_all,
        kinds=("prompts",),
        has_share=False,
    ),
]
