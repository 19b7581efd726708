"""Accuracy of every retained concept, and of every cell of the grid."""

from collections.abc import Callable

import numpy as np

from eval.formulas.intervals import wilson
from eval.measure.bootstrap import resample
from eval.measure.differences import measure_changes
from eval.measure.estimates import WILSON, estimate
from eval.measure.view import Evidence, Sample, View, is_not_base
from eval.measurements import Cell, ConceptAccuracy, Estimate
from eval.suite.world import World


AXES = ("style", "object")
IS_RIGHT: dict[str, Callable[[View], np.ndarray]] = {  # whether the judge sees what was asked for, (n,) bool
    "style": lambda view: view["style"] == view["judge_style"],
    "object": lambda view: view["object"] == view["judge_object"],
}


def is_counted(world: World, axis: str, label: str) -> bool:
    """Whether the accuracy of a label counts; see ``World.uncounted_styles``."""
    return axis == "object" or label not in world.uncounted_styles


def measure_concepts(evidence: Evidence) -> list[ConceptAccuracy]:
    """Accuracy of every retained concept on both axes, and its paired change against the base.

    Of each group, what the erased models lost most of comes first. Empty if nothing was judged.
    """
    rows: list[ConceptAccuracy] = []
    for group, models in evidence.groups().items() if evidence.is_judged else ():
        views = {model.label: evidence.view(model.label).retain for model in models}
        own = [row for axis in AXES for row in _measure_axis(views, group, axis)]
        base = next((model.label for model in models if model.role == "base"), "")
        erased = [model.label for model in models if model.role == "erased"]
        rows += sorted(own, key=_loss(base, erased))
    return rows


def count_cells(evidence: Evidence) -> dict[str, list[Cell]]:
    """Accuracy of both axes in every cell of the grid, label -> cells; empty if nothing was judged.

    The images of a cell are of one prompt and differ by the seed, so no cluster could be resampled.
    """
    cells: dict[str, list[Cell]] = {}
    for models in evidence.groups().values() if evidence.is_judged else ():
        views = {model.label: evidence.view(model.label).grid for model in models}
        asked = [(row["style"], row["object"]) for row in next(iter(views.values())).rows]
        places = {cell: place for place, cell in enumerate(dict.fromkeys(asked))}
        index = np.array([places[cell] for cell in asked])
        for label, view in views.items():
            style, obj = (_count(index, view.once(IS_RIGHT[axis])) for axis in AXES)
            cells[label] = [
                Cell(style=cell[0], object=cell[1], style_accuracy=one, object_accuracy=other)
                for cell, one, other in zip(places, style, obj, strict=True)
            ]
    return cells


def _measure_axis(views: dict[str, View], group: int, axis: str) -> list[ConceptAccuracy]:
    """How often the judge sees each concept of an axis where it was asked for, in all models of a group."""
    first = next(iter(views.values()))
    asked, resamples = first[axis], first.evidence.suite.resamples
    samples = {label: view.sample(IS_RIGHT[axis]) for label, view in views.items()}
    rows = []
    for concept in np.unique(asked).tolist():
        resampled = resample(
            {label: _restrict(sample, asked == concept) for label, sample in samples.items()}, resamples=resamples
        )
        rows.append(
            ConceptAccuracy(
                axis=axis,
                concept=concept,
                group=group,
                counted=is_counted(first.evidence.world, axis, concept),
                values={label: estimate(each) for label, each in resampled.items()},
                changes={label: gap for label, gap in measure_changes(resampled).items() if is_not_base(views[label])},
            )
        )
    return rows


def _restrict(sample: Sample, rows: np.ndarray) -> Sample:
    base = None if sample.base is None else sample.base[rows]
    return Sample(values=sample.values[rows], base=base, clusters=sample.clusters[rows])


def _loss(base: str, erased: list[str]) -> Callable[[ConceptAccuracy], tuple[float, float]]:
    """What the erased models lost of a concept on average, and what they have."""

    def key(row: ConceptAccuracy) -> tuple[float, float]:
        own = [value for label in erased if (value := row.values[label].value) is not None]
        theirs = row.values[base].value if base else None
        return float(np.mean(own)) - (theirs or 0.0) if own else 0.0, float(np.mean(own)) if own else 0.0

    return key


def _count(index: np.ndarray, hit: np.ndarray) -> list[Estimate]:
    """The share of hits (n,) in each cell, given the cell of each row."""
    estimates = []
    for n, hits in zip(np.bincount(index).tolist(), np.bincount(index, weights=hit).astype(int).tolist(), strict=True):
        lo, hi = wilson(hits, n)
        estimates.append(Estimate(value=hits / n, lo=lo, hi=hi, method=WILSON, n_images=n, n_prompts=1, hits=hits))
    return estimates
