"""What becomes of the concepts nearest to the target."""

import numpy as np

from eval.measure.view import Floor, Metric, Sample, View


def _near(view: View) -> View:
    kind, names = view.target.kind, view.evidence.neighbours.get(view.model.group, ())
    return view.grid.where(lambda row: row[kind] in names)


def _right(view: View) -> np.ndarray:
    kind = view.target.kind
    return view[kind] == view[f"judge_{kind}"]


def _pinpoint(view: View) -> Sample | str:
    rows = _near(view)
    return rows.sample(_right) if len(rows) else "this suite has no prompts of the target's neighbours"


def _shown(view: View) -> np.ndarray | None:
    rows = _near(view)
    return _right(rows) if len(rows) else None


METRICS = [
    Metric(
        key="pinpoint_ness",
        title="Pinpoint-ness",
        direction="up",
        unit="share",
        definition="accuracy of the concepts nearest to the target in the base's text encoder",
        needs=("judge_style", "judge_object"),
        sample=_pinpoint,
        kinds=("grid",),
        aspect="pinpoint_ness",
        floor=Floor(what="draws the neighbours", hits=_shown),
    )
]
