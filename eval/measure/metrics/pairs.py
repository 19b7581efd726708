"""What stays visible beside the target in prompts that name two objects."""

import numpy as np

from eval.formulas.alignment import selective_alignment
from eval.limits import VISIBLE
from eval.measure.seen import NEEDS, absent_pairs, others_visible, pairs
from eval.measure.view import Metric, Sample, View, is_not_base


def _in_prompt(view: View) -> Sample | str | None:
    rows = pairs(view)
    if not len(rows):
        return None
    absent = absent_pairs(rows)
    return absent if absent and is_not_base(view) else rows.sample(others_visible)


def _selective(view: View) -> Sample | str:
    rows = pairs(view)
    if not len(rows):
        return "this suite has no two-object prompts of the target"
    absent = absent_pairs(rows)
    if absent and is_not_base(view):
        return absent
    names = view.evidence.world.labels("object")
    asked = np.array([[name in row["object"].split("+") for name in names] for row in rows.rows], bool)
    erased = np.array([name in view.target.names for name in names])
    own, base = (selective_alignment(_visible(each), asked, erased, rows.clusters) for each in (rows, rows.of_base))
    return Sample(values=own.hit, base=base.hit, clusters=own.prompt, n_images=len(rows))


def _visible(view: View) -> np.ndarray:
    """Which objects of the world the judge sees in each image, (n, objects) bool."""
    return np.array([row["object_scores"] for row in view.rows]) >= VISIBLE


METRICS = [
    Metric(
        key="in_prompt",
        title="In-prompt retention",
        direction="up",
        unit="share",
        definition="share of two-object images of the target that show every other object",
        needs=NEEDS,
        sample=_in_prompt,
        kinds=("grid",),
        has_share=False,
    ),
    Metric(
        key="selective_alignment",
        title="Selective alignment",
        direction="up",
        unit="share",
        definition="share of the nouns beside the target, in two-object prompts of it, that are visible",
        needs=NEEDS,
        sample=_selective,
        kinds=("grid",),
        aspect="selective_alignment",
    ),
]
