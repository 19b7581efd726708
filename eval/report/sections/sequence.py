"""Targets that were erased one after another: what is gone, what comes back, what is retained."""

from markupsafe import Markup

from eval.measurements import Estimate, Sequence
from eval.report.tables import ABSENT, Cell, Row, Table, model_head, section, value_cell
from eval.report.text import change
from eval.results import Results


PLACE = 160
NAME = "Erased one after another"
NOTE = (
    "UA of every target (column) after every step (row), from its own step on; below it how far it fell since then "
    "(rebound: above 0 it comes back). Retained: mean of style and object accuracy on prompts without any target so "
    "far. 95 % intervals."
)


def applies(results: Results) -> bool:
    """Whether the models are a sequence."""
    return results.sequence is not None


def html(results: Results) -> Markup:
    """One table, or why there is none."""
    sequence = results.sequence or Sequence()
    if sequence.not_run:
        return section(results, NAME, f"Not run: {sequence.not_run}.", [])
    return section(results, NAME, NOTE, [_table(results, sequence)])


def markdown(results: Results) -> str:
    """The same."""
    sequence = results.sequence or Sequence()
    return f"{NAME}: not run: {sequence.not_run}" if sequence.not_run else _table(results, sequence).markdown


def _table(results: Results, sequence: Sequence) -> Table:
    steps = zip(sequence.labels, sequence.ua, sequence.rebound, sequence.retained, strict=True)
    return Table(
        name=NAME,
        corner="UA after",
        heads=[*(Cell(request) for request in sequence.requests), Cell("retained")],
        rows=[
            Row(
                model_head(results, label),
                [*(_cell(gone, back) for gone, back in zip(ua, rebound, strict=True)), value_cell(retained)],
            )
            for label, ua, rebound, retained in steps
        ],
        is_narrow=True,
    )


def _cell(gone: Estimate | None, back: Estimate | None) -> Cell:
    if gone is None:
        return ABSENT
    cell = value_cell(gone)
    return cell._replace(small=(*cell.small, f"rebound {change(back)}")) if back else cell
