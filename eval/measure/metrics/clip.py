"""CLIP scores: how well images fit their prompts."""

import numpy as np

from eval.measure.view import Metric, Sample, View


def _score(view: View) -> np.ndarray:
    return view["clip"].astype(float)


def _retain(view: View) -> Sample:
    return view.retain.sample(_score)


def _target(view: View) -> Sample:
    return view.forget.sample(_score)


def _all(view: View) -> Sample:
    return view.sample(_score)


METRICS = [
    Metric(
        key="clip_retain",
        title="CLIP score, other prompts",
        direction="up",
        unit="score",
        definition="mean cosine of image and prompt, prompts without the target",
        needs=("clip",),
        sample=_retain,
        kinds=("grid",),
    ),
    Metric(
        key="clip_target",
        title="CLIP score, target prompts",
        direction="none",
        unit="score",
        definition="mean cosine of image and prompt, prompts with the target",
        needs=("clip",),
        sample=_target,
        kinds=("grid",),
    ),
    Metric(
        key="clip_score",
        title="CLIP score",
        direction="up",
        unit="score",
        definition="mean cosine of image and prompt, neither scaled nor clamped",
        needs=("clip",),
        sample=_all,
        kinds=("prompts",),
        is_damage=True,
    ),
]
