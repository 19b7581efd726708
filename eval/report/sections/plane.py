"""Erasure against retention, one cross per model."""

from markupsafe import Markup

from eval.report import charts
from eval.report.marks import value_mark
from eval.report.outline import RETENTION
from eval.report.templating import part
from eval.results import Results


PLACE = 70


def applies(results: Results) -> bool:
    """Whether a model has both numbers."""
    return bool(_points(results))


def html(results: Results) -> Markup:
    """The plane."""
    titles = [results.metrics[key].title for key in RETENTION if key in results.metrics]
    retention = titles[0] if len(titles) == 1 else f"the lowest of {', '.join(titles)}"
    return part("plane", results, chart=charts.plane(_points(results), retention=retention))


def markdown(results: Results) -> str:
    """Nothing: the table of all numbers has them."""
    return ""


def _points(results: Results) -> list[charts.Point]:
    if "normalised_erasure" not in results.metrics:
        return []
    points = []
    for model in results.models:
        erasure = value_mark(results, results.metrics["normalised_erasure"], model.label)
        retention = [
            mark
            for key in RETENTION
            if key in results.metrics and (mark := value_mark(results, results.metrics[key], model.label))
        ]
        if erasure and retention:
            points.append(charts.Point(erasure, min(retention, key=lambda mark: mark.value)))
    return points
