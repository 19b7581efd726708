"""The numbers that come first, one card per metric."""

from markupsafe import Markup

from eval.measurements import MetricResult
from eval.report import charts
from eval.report.marks import value_mark
from eval.report.outline import headline
from eval.report.tables import value_cell
from eval.report.templating import part
from eval.results import Results


PLACE = 30


def applies(results: Results) -> bool:
    """Whether the report has metrics that come first."""
    return bool(headline(results))


def html(results: Results) -> Markup:
    """The cards."""
    cards = [
        {
            "metric": metric,
            "values": {
                model.label: value_cell(metric.values.get(model.label), metric.unit, metric.struck.get(model.label, ""))
                for model in results.models
            },
            "chart": _chart(results, metric),
        }
        for metric in (results.metrics[key] for key in headline(results))
    ]
    return part("cards", results, cards=cards)


def markdown(results: Results) -> str:
    """Nothing: the table of all numbers has them."""
    return ""


def _chart(results: Results, metric: MetricResult) -> Markup:
    """A share of every model with its interval, 0 to 1."""
    marks = [value_mark(results, metric, model.label) for model in results.models]
    return charts.forest([mark for mark in marks if mark], low=0, high=1, ticks=(0, 0.5, 1))
