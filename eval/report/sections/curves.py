"""Rates against the threshold of a detector, one chart per rate."""

from markupsafe import Markup

from eval.measurements import Curve, Estimate
from eval.report import charts
from eval.report.outline import tints
from eval.report.tables import Cell, Row, Table
from eval.report.tables import markdown as join
from eval.report.templating import part
from eval.report.text import number
from eval.results import Results


PLACE = 100


def applies(results: Results) -> bool:
    """Whether there are curves."""
    return bool(results.curves)


def html(results: Results) -> Markup:
    """The charts."""
    labels = [model.label for model in results.models if model.label in results.curves[0].lines]
    shown = [{"title": curve.title, "chart": _chart(results, curve)} for curve in results.curves]
    return part("curves", results, curves=shown, labels=labels)


def markdown(results: Results) -> str:
    """One table per curve, a column per threshold."""
    tables = []
    for curve in results.curves:
        struck = results.metrics[curve.metric].struck
        rows = [
            Row(Cell(label), [Cell(number(each.value), struck=struck.get(label, "")) for each in estimates])
            for label, estimates in curve.lines.items()
        ]
        heads = [Cell(f"{place:g}") for place in curve.places]
        tables.append(Table(name=curve.title, corner=f"{curve.title}, by {curve.axis}", heads=heads, rows=rows))
    return join(tables)


def _chart(results: Results, curve: Curve) -> Markup:
    colours, struck = tints(results), results.metrics[curve.metric].struck
    lines = [
        charts.Line(
            label,
            colours[label],
            _ends(estimates, "value"),
            _ends(estimates, "lo"),
            _ends(estimates, "hi"),
            label in struck,
        )
        for label, estimates in curve.lines.items()
    ]
    return charts.curves(lines, curve.places, name=curve.axis, mark=curve.mark)


def _ends(estimates: list[Estimate], name: str) -> list[float]:
    return [getattr(each, name) for each in estimates]
