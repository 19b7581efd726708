"""The paired change of every share against the base, one chart per metric."""

from markupsafe import Markup

from eval.measurements import MetricResult
from eval.report import charts
from eval.report.marks import change_mark
from eval.report.outline import full_title
from eval.report.templating import part
from eval.results import Results


PLACE = 80


def applies(results: Results) -> bool:
    """Whether a share has a paired change."""
    return bool(_shares(results))


def html(results: Results) -> Markup:
    """The charts, -1 to 1."""
    shares = _shares(results)
    labels = [model.label for model in results.models if any(model.label in metric.changes for metric in shares)]
    effects = [
        {
            "title": full_title(metric),
            "direction": metric.direction,
            "chart": charts.forest(
                [
                    change_mark(results, metric.changes[label], label, is_struck=label in metric.struck)
                    for label in labels
                    if label in metric.changes
                ],
                low=-1,
                high=1,
                ticks=(-1, 0, 1),
            ),
        }
        for metric in shares
    ]
    return part("effects", results, effects=effects, labels=labels)


def markdown(results: Results) -> str:
    """Nothing: the table of differences has them."""
    return ""


def _shares(results: Results) -> list[MetricResult]:
    return [metric for metric in results.metrics.values() if metric.unit == "share" and metric.changes]
