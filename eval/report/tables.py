"""A table of a report, which becomes HTML and Markdown alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from eval.measurements import Difference, Estimate
from eval.report.outline import tints
from eval.report.templating import part
from eval.report.text import basis, interval, number, signed, signed_interval
from eval.results import Results


class Cell(NamedTuple):
    """One cell.

    Attributes:
        text: What is read first.
        small: Lines below it.
        title: What is shown where somebody points at the text.
        struck: Why a gate withholds it; empty if none does.
        is_absent: There is no number; the text says why.
        tints: Colours of the models that the cell names.
    """

    text: str
    small: tuple[str, ...] = ()
    title: str = ""
    struck: str = ""
    is_absent: bool = False
    tints: tuple[str, ...] = ()

    @property
    def markdown(self) -> str:
        """The cell in a line; a number that is withheld stands between ~~."""
        line = " ".join(filter(None, (self.text, *self.small))).replace("|", "\\|")
        return f"~~{line}~~" if self.struck and not self.is_absent else line


ABSENT = Cell("n/a", is_absent=True)


class Row(NamedTuple):
    """One row; one that belongs to the row above is a sub-row."""

    head: Cell
    cells: Sequence[Cell]
    is_sub: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        name: What it is about, for people who do not see it.
        corner: What the heads of the rows are.
        heads: Of the columns.
        rows: From top to bottom.
        title: Above it; empty for none.
        reasons: Why numbers in it are struck through.
        is_narrow: It is as wide as its content.
    """

    name: str
    corner: str
    heads: Sequence[Cell]
    rows: Sequence[Row]
    title: str = ""
    reasons: Sequence[str] = ()
    is_narrow: bool = False

    @property
    def markdown(self) -> str:
        """The table and what is said about it."""
        heads = [self.corner, *(head.markdown for head in self.heads)]
        lines = [f"{self.title}\n"] if self.title else []
        lines += [_line(heads), f"|{'---|' * len(heads)}"]
        for row in self.rows:
            head = f"- {row.head.text}" if row.is_sub else row.head.text
            lines.append(_line([head, *(cell.markdown for cell in row.cells)]))
        return "\n".join([*lines, *(f"\n- {reason}" for reason in self.reasons)])


def section(results: Results, name: str, note: str, tables: Sequence[Table]) -> Markup:
    """A heading, a note and tables as HTML."""
    return part("table", results, name=name, note=note, tables=tables)


def markdown(tables: Iterable[Table]) -> str:
    """Tables one after another as Markdown."""
    return "\n\n".join(table.markdown for table in tables)


def value_cell(estimate: Estimate | None, unit: str = "share", struck: str = "") -> Cell:
    """A number with its interval, or why there is none."""
    if estimate is None:
        return ABSENT
    if estimate.value is None:
        return Cell(f"not run: {estimate.not_run}", is_absent=True)
    small = interval(estimate, unit)
    return Cell(number(estimate.value, unit), (small,) if small else (), basis(estimate), struck)


def change_cell(gap: Difference | Estimate | None, unit: str = "share", struck: str = "") -> Cell:
    """A difference with its interval."""
    if gap is None:
        return ABSENT
    return Cell(signed(gap.value, unit), (signed_interval(gap, unit),), struck=struck)


def model_head(results: Results, *labels: str, small: str = "") -> Cell:
    """The names of models in their colours."""
    colours = tints(results)
    return Cell(", ".join(labels), (small,) if small else (), tints=tuple(colours[label] for label in labels))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
