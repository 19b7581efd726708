"""The difference of any two models in every metric, chosen as A and B on the page."""

from markupsafe import Markup

from eval.measurements import PairDifferences
from eval.report.outline import full_title, headline
from eval.report.tables import ABSENT, Cell, Row, Table, change_cell
from eval.report.templating import part
from eval.results import Results


PLACE = 60


def applies(results: Results) -> bool:
    """Whether two models were compared."""
    return bool(results.differences)


def html(results: Results) -> Markup:
    """An empty table, which the script of the page fills."""
    return part("comparison", results)


def markdown(results: Results) -> str:
    """The pairs that are compared image by image; of prompt files each model and its base."""
    pairs = [pair for pair in results.differences if pair.paired]
    if keys := headline(results):
        heads = [Cell(results.metrics[key].title) for key in keys]
        rows = [Row(Cell(f"{pair.b} - {pair.a}"), [_cell(results, key, pair) for key in keys]) for pair in pairs]
        return Table(name="Differences", corner="paired difference", heads=heads, rows=rows).markdown
    pairs = [pair for pair in pairs if results.model(pair.b).base == pair.a]
    rows = [
        Row(Cell(full_title(metric)), [_cell(results, key, pair) for pair in pairs])
        for key, metric in results.metrics.items()
        if metric.changes
    ]
    heads = [Cell(pair.b) for pair in pairs]
    return Table(name="Differences", corner="paired difference to base", heads=heads, rows=rows).markdown


def _cell(results: Results, key: str, pair: PairDifferences) -> Cell:
    metric = results.metrics[key]
    struck = metric.struck.get(pair.a) or metric.struck.get(pair.b) or ""
    return change_cell(pair.metrics[key], metric.unit, struck) if key in pair.metrics else ABSENT
