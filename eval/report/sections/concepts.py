"""The paired change of the accuracy of every retained concept, the most hurt first."""

from markupsafe import Markup

from eval.measurements import ConceptAccuracy
from eval.report import charts
from eval.report.marks import change_mark
from eval.report.templating import part
from eval.results import Results


PLACE = 90


def applies(results: Results) -> bool:
    """Whether a concept has a paired change."""
    return any(each.changes for each in results.concepts)


def html(results: Results) -> Markup:
    """One chart per concept, all on one scale; groups of models share the chart of a concept."""
    concepts: dict[tuple[str, str], list[charts.Mark]] = {}
    for each in results.concepts:
        marks = concepts.setdefault((each.axis, each.concept), [])
        marks += [change_mark(results, gap, label) for label, gap in each.changes.items()]
    ranked = sorted(
        ((concept, marks) for concept, marks in concepts.items() if marks),
        key=lambda item: min(mark.value for mark in item[1]),
    )
    low = min([-0.2, *(mark.lo for _, marks in ranked for mark in marks)])
    high = max([0.2, *(mark.hi for _, marks in ranked for mark in marks)])
    rows = [
        {
            "axis": axis,
            "concept": concept,
            "lowest": min(mark.value for mark in marks),
            "is_counted": _is_counted(results.concepts, axis, concept),
            "chart": charts.forest(marks, low=low, high=high),
        }
        for (axis, concept), marks in ranked
    ]
    shown = {label for each in results.concepts for label in each.changes}
    labels = [model.label for model in results.models if model.label in shown]
    return part("concepts", results, rows=rows, low=low, high=high, labels=labels)


def markdown(results: Results) -> str:
    """Nothing: there are too many."""
    return ""


def _is_counted(concepts: list[ConceptAccuracy], axis: str, concept: str) -> bool:
    return any(each.counted for each in concepts if (each.axis, each.concept) == (axis, concept))
