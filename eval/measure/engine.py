"""From the scores of all models to every number of a report; no model is run."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from eval.measure.bootstrap import Resampled, resample
from eval.measure.concepts import count_cells, measure_concepts
from eval.measure.differences import Pair, compare_pairs, differences, measure_changes
from eval.measure.estimates import estimate, not_run, share_of_base
from eval.measure.parts import adapt, find_parts, restrict, without_targets
from eval.measure.registry import curve_modules, metrics_of
from eval.measure.view import Evidence, Metric, Part, Sample, View, is_not_base
from eval.measure.wordings import measure_attacks, measure_held_out
from eval.measurements import Cell, ConceptAccuracy, Curve, Difference, Estimate, MetricResult, PairDifferences, Wording


@dataclass(frozen=True, kw_only=True)
class BaseShare:
    """How often a base shows what a metric is about; a gate withholds the metric if it hardly does.

    Attributes:
        metric: Key of the metric.
        base: Label of the base.
        what: What the base does, for a sentence.
        hits: In how many images.
        n: Of how many.
    """

    metric: str
    base: str
    what: str
    hits: int
    n: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Every number of a report before gates withhold any.

    Attributes:
        metrics: Key, of a prompt file ``key@file`` or ``key@file/language``, -> result.
        differences: Of all pairs of models but those of two bases.
        held_out: Held-out wordings of the target.
        attacks: Attack prompts and null attacks of a grid suite.
        concepts: Accuracy of every retained concept.
        cells: Label -> accuracy of every cell of the grid.
        curves: Shares against a threshold.
        floors: What the bases show of what some metrics are about.
    """

    metrics: dict[str, MetricResult]
    differences: list[PairDifferences] = field(default_factory=list)
    held_out: list[Wording] = field(default_factory=list)
    attacks: list[Wording] = field(default_factory=list)
    concepts: list[ConceptAccuracy] = field(default_factory=list)
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    floors: list[BaseShare] = field(default_factory=list)


def measure(evidence: Evidence) -> Measured:
    """Measure every metric of the suite on all models.

    Raises:
        ValueError: The images of the models of a group are not paired, an image was not judged, or the suite names an
            unknown metric.
    """
    _check_paired(evidence)
    _check_judged(evidence)
    views = _Views(evidence)
    results: dict[str, MetricResult] = {}
    gaps: dict[str, dict[Pair, Difference]] = {}
    for metric, part in _places(evidence):
        adapted = adapt(metric, evidence, part)
        if adapted is None:
            continue
        result, own_gaps = _measure(adapted, evidence, views.of(metric, part))
        if (
            part.file
            and not metric.by_file
            and not any(value and value.value is not None for value in result.values.values())
        ):
            continue  # why there is no number, the row of all prompts says
        if any(result.values.values()):
            results[metric.key + part.suffix] = result
            gaps[metric.key + part.suffix] = own_gaps
    is_grid = evidence.suite.grid is not None
    return Measured(
        metrics=results,
        differences=_by_pair(evidence, gaps),
        held_out=measure_held_out(evidence) if is_grid else [],
        attacks=measure_attacks(evidence) if is_grid else [],
        concepts=measure_concepts(evidence) if is_grid else [],
        cells=count_cells(evidence) if is_grid else {},
        curves=[curve for name in curve_modules() for curve in importlib.import_module(name).curves(evidence)],
        floors=_floors(evidence, views),
    )


class _Views:
    """The views of all models of each part, made once; views of metrics that need nothing special are shared."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.views: dict[tuple[Part, bool, bool], dict[str, View]] = {}
        self.whole = {model.label: evidence.view(model.label) for model in evidence.models}

    def of(self, metric: Metric, part: Part) -> dict[str, View]:
        """Label -> view."""
        key = (part, metric.by_file, not part.file and without_targets(metric, self.evidence))
        if key not in self.views:
            bases = {label: restrict(view, metric, part) for label, view in self.whole.items() if not is_not_base(view)}
            self.views[key] = {
                label: bases[label] if label in bases else restrict(view, metric, part, twin=bases.get(view.model.base))
                for label, view in self.whole.items()
            }
        return self.views[key]


def _places(evidence: Evidence) -> list[tuple[Metric, Part]]:
    """Every metric with every part, in the order of the report: all prompts first, then file by file."""
    places = [(metric, part) for metric in _listed(evidence) for part in find_parts(metric, evidence)]
    files = [file.label for file in evidence.suite.prompts.files] if evidence.suite.prompts else []
    return sorted(places, key=lambda place: files.index(place[1].file) if place[1].file else -1)


def _listed(evidence: Evidence) -> list[Metric]:
    """The metrics of the suite for which its scorers give everything that they need."""
    return [metric for metric in metrics_of(evidence.suite) if all(need in evidence.provided for need in metric.needs)]


def _measure(
    metric: Metric, evidence: Evidence, views: Mapping[str, View]
) -> tuple[MetricResult, dict[Pair, Difference]]:
    """One metric of all models, and the differences of all pairs."""
    values: dict[str, Estimate | None] = {}
    samples: dict[str, Sample] = {}
    absent = next((why for need in metric.needs if (why := evidence.provided[need])), "")
    for label, view in views.items():
        if metric.exists is not None and not metric.exists(view):
            values[label] = None
        elif absent:
            values[label] = not_run(absent)
        elif metric.distance is not None:
            values[label] = metric.distance(view)
        elif metric.sample is not None:
            values[label] = _take_sample(metric.sample(view), label, samples)
    resampled = resample(samples, resamples=evidence.suite.resamples)
    values |= {label: estimate(each) for label, each in resampled.items()}
    changes = measure_changes(resampled)
    result = MetricResult(
        title=metric.title,
        direction=metric.direction,
        unit=metric.unit,
        definition=metric.definition,
        values=values,
        changes={label: gap for label, gap in changes.items() if is_not_base(views[label])},
        shares=_shares(metric, resampled, views),
        file=next(iter(views.values())).part.file,
        aspect=metric.aspect if {metric.aspect, metric.key} & {*evidence.suite.metrics} else "",
        claims_gone=metric.claims_gone,
    )
    return result, differences(resampled, evidence.models, changes)


def _take_sample(sample: Sample | str | None, label: str, samples: dict[str, Sample]) -> Estimate | None:
    """Keep a sample for the engine, or say why there is none."""
    if sample is None:
        return None
    if isinstance(sample, str):
        return not_run(sample)
    if not len(sample.values):
        return not_run("this suite has no images for it")
    samples[label] = sample
    return None


def _shares(metric: Metric, resampled: Mapping[str, Resampled], views: Mapping[str, View]) -> dict[str, Estimate]:
    if not metric.has_share:
        return {}
    own = {label: share_of_base(each) for label, each in resampled.items() if is_not_base(views[label])}
    return {label: share for label, share in own.items() if share}


def _by_pair(evidence: Evidence, gaps: Mapping[str, Mapping[Pair, Difference]]) -> list[PairDifferences]:
    """The differences of every pair of models, metric by metric."""
    groups = {model.label: model.group for model in evidence.models}
    return [
        PairDifferences(
            a=a,
            b=b,
            paired=groups[a] == groups[b],
            metrics={key: own[a, b] for key, own in gaps.items() if (a, b) in own},
        )
        for a, b in compare_pairs(evidence.models)
    ]


def _floors(evidence: Evidence, views: _Views) -> list[BaseShare]:
    """What every base shows of what the metrics with a floor are about."""
    shares = []
    for metric in _listed(evidence):
        if metric.floor is None or any(evidence.provided[need] for need in metric.needs):
            continue
        for label, view in views.of(metric, Part()).items():
            hits = None if is_not_base(view) else metric.floor.hits(view)
            if hits is not None and len(hits):
                what = metric.floor.what
                shares.append(BaseShare(metric=metric.key, base=label, what=what, hits=int(np.sum(hits)), n=len(hits)))
    return shares


def _check_judged(evidence: Evidence) -> None:
    """Refuse images without an answer of the judge where it is said to have run: they would count as erased."""
    if not evidence.is_judged:
        return
    for label, scores in evidence.scores.items():
        if odd := [row["key"] for row in scores.records.rows if row["judge_style"] is None]:
            raise ValueError(
                f"{len(odd)} images of {label} have no answer of the judge, the first is {odd[0]}: score them again, "
                "since an image that was not judged would count as erased."
            )


def _check_paired(evidence: Evidence) -> None:
    """Refuse groups in which the rows of two models differ, or start from other latents."""
    for models in evidence.groups().values():
        first = models[0].label
        expected = [(row["key"], row["latent_hash"]) for row in evidence.scores[first].records.rows]
        for model in models[1:]:
            own = [(row["key"], row["latent_hash"]) for row in evidence.scores[model.label].records.rows]
            if own == expected:
                continue
            if odd := sorted({key for key, _ in own} ^ {key for key, _ in expected}):
                what = f"differ in {odd[0]}: score both again"
            elif [key for key, _ in own] != [key for key, _ in expected]:
                what = "are in another order: score both again"
            else:
                what = "do not start from the same initial latents: evaluate both again on one machine"
            raise ValueError(f"The images of {model.label} and of {first} {what}.")
