"""How often the target is seen for held-out wordings, and for the attack prompts of a suite and their nulls."""

from collections.abc import Sequence

from markupsafe import Markup

from eval.measurements import Wording
from eval.report.outline import groups, targets
from eval.report.tables import Cell, Row, Table, model_head, section, value_cell
from eval.report.tables import markdown as join
from eval.report.text import words
from eval.results import ModelInfo, Results


PLACE = 130
HELD_OUT = "Held-out wordings"
NOTES = {
    HELD_OUT: "Share of images in which the judge sees the target. No erasing method was given these wordings; compare "
    "with base, which does not understand all of them either.",
    "Attacks": "Share of images in which the judge sees the target, for each attack and for its null attack of the "
    "same budget: an attack counts only by what it brings beyond its null.",
}


def applies(results: Results) -> bool:
    """Whether there are held-out wordings or attack prompts."""
    return bool(results.held_out or results.attacks)


def html(results: Results) -> Markup:
    """One table per target."""
    return Markup("").join(section(results, name, NOTES[name], tables) for name, tables in _tables(results).items())


def markdown(results: Results) -> str:
    """The same tables."""
    return join(table for tables in _tables(results).values() for table in tables)


def _tables(results: Results) -> dict[str, list[Table]]:
    """Heading -> tables."""
    wordings = {HELD_OUT: results.held_out, "Attacks": results.attacks}
    return {
        name: [
            _table(results, name, models, [row for row in rows if row.group == group])
            for group, models in groups(results, (row.group for row in rows)).items()
        ]
        for name, rows in wordings.items()
        if rows
    }


def _table(results: Results, name: str, models: Sequence[ModelInfo], rows: Sequence[Wording]) -> Table:
    erased = [model.label for model in models if model.role == "erased"]
    alone = erased[0] if len(erased) == 1 and any(row.erasure for row in rows) else ""
    heads = [model_head(results, model.label) for model in models]
    heads += [*([Cell("normalised erasure")] if alone else []), Cell("images / prompts")]
    target = targets(results, rows[0].group)
    corner = f"{'wording' if name == HELD_OUT else 'attack'}: shows {target}"
    return Table(name=f"{name}: {target}", corner=corner, heads=heads, rows=[_row(row, models, alone) for row in rows])


def _row(row: Wording, models: Sequence[ModelInfo], alone: str) -> Row:
    cells = [value_cell(row.values.get(each.label), struck=row.struck.get(each.label, "")) for each in models]
    if alone:
        cells.append(value_cell(row.erasure.get(alone), struck=row.struck.get(alone, "")))
    shown = next(iter(row.values.values()))
    head = row.language or f"{words(row.family)}{', null' if row.is_null else ''}"
    return Row(Cell(head), [*cells, Cell(f"{shown.n_images} / {shown.n_prompts}")], bool(row.language) or row.is_null)
