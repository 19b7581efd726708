"""The change of the accuracy in every cell of the grid, as heat maps."""

from typing import NamedTuple

from markupsafe import Markup

from eval.measurements import Cell, Estimate
from eval.report.templating import part
from eval.report.text import interval, words
from eval.results import ModelInfo, Results


PLACE = 120
AXES = ("style", "object")
Place = tuple[str, str]  # style and object


class Heat(NamedTuple):
    """One cell of a map."""

    after: float
    change: float
    is_target: bool
    title: str


def applies(results: Results) -> bool:
    """Whether a model has cells to compare with its base."""
    return bool(_compared(results))


def html(results: Results) -> Markup:
    """Two maps per model, one per axis."""
    maps = {model.label: [_map(results, model, axis) for axis in AXES] for model in _compared(results)}
    objects = {label: list(dict.fromkeys(cell.object for cell in results.cells[label])) for label in maps}
    return part("cells", results, maps=maps, objects=objects)


def markdown(results: Results) -> str:
    """Nothing: there are too many."""
    return ""


def _compared(results: Results) -> list[ModelInfo]:
    return [model for model in results.models if results.cells.get(model.label) and results.cells.get(model.base)]


def _map(results: Results, model: ModelInfo, axis: str) -> tuple[str, dict[str, list[Heat]]]:
    """The axis, and its rows: style -> cells."""
    before = {(cell.style, cell.object): _accuracy(cell, axis) for cell in results.cells[model.base]}
    rows = [row for row in results.wall.rows if row.group == model.group and row.part == "target"]
    asked = {(row.style, row.object) for row in rows}
    by_style: dict[str, list[Heat]] = {}
    for cell in results.cells[model.label]:
        place = cell.style, cell.object
        by_style.setdefault(cell.style, []).append(_show(place, _accuracy(cell, axis), before[place], asked))
    return axis, by_style


def _accuracy(cell: Cell, axis: str) -> Estimate:
    return cell.style_accuracy if axis == "style" else cell.object_accuracy


def _show(place: Place, after: Estimate, before: Estimate, asked: set[Place]) -> Heat:
    title = f"{' / '.join(map(words, place))}: {_words(after)} of {after.n_images} images, base {_words(before)}"
    change = (after.value or 0.0) - (before.value or 0.0)
    return Heat(after.value or 0.0, change, place in asked, title)


def _words(estimate: Estimate) -> str:
    return f"{estimate.value or 0.0:.0%} {interval(estimate)}".strip()
