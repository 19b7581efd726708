"""Every number of every model: a table to sort, one more for each prompt file, and why numbers are withheld."""

from markupsafe import Markup

from eval.measurements import MetricResult
from eval.report.outline import by_file, full_title, headline
from eval.report.tables import Cell, Row, Table, value_cell
from eval.report.templating import part
from eval.results import Results


PLACE = 40
BETTER = {"up": ". Higher is better.", "down": ". Lower is better.", "none": "."}


def applies(results: Results) -> bool:
    """Whether there are numbers."""
    return bool(results.metrics)


def html(results: Results) -> Markup:
    """The tables, with the choice of A and B in the first one."""
    first = headline(results)
    return part(
        "numbers",
        results,
        files=by_file(results),
        hidden={key for key in results.metrics if first and key not in first},
        better=BETTER,
        cell=_cell,
        withheld=_find_withheld(results),
    )


def markdown(results: Results) -> str:
    """One table, a row per metric; images and prompts are those of the last model."""
    last = results.erased[-1].label
    rows = []
    for metric in results.metrics.values():
        shown = metric.values.get(last)
        counts = (shown.n_images, shown.n_prompts) if shown else (None, None)
        cells = [_cell(metric, model.label) for model in results.models]
        rows.append(Row(Cell(full_title(metric)), [*cells, *(Cell(str(each or "")) for each in counts)]))
    heads = [*(Cell(model.label) for model in results.models), Cell("images"), Cell("prompts")]
    lines = [Table(name="Numbers", corner="metric", heads=heads, rows=rows).markdown, ""]
    lines += [
        f"- {label}: {', '.join(titles)} withheld. {sentence}"
        for (label, sentence), titles in _find_withheld(results).items()
    ]
    return "\n".join([*lines, "", "Intervals: 95 %, in square brackets; a failed gate withholds a number between ~~."])


def _cell(metric: MetricResult, label: str) -> Cell:
    return value_cell(metric.values.get(label), metric.unit, metric.struck.get(label, ""))


def _find_withheld(results: Results) -> dict[tuple[str, str], list[str]]:
    """Label, and why numbers of the model are withheld -> their titles."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model in results.models:
        for metric in results.metrics.values():
            if model.label in metric.struck:
                reasons.setdefault((model.label, metric.struck[model.label]), []).append(full_title(metric))
    return reasons
