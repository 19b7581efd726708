"""The first numbers of a report as a small table for a terminal."""

from eval.measurements import MetricResult
from eval.report.outline import headline, title
from eval.report.text import interval, number
from eval.results import Results


WIDTH = 120  # characters of a line, unless one model alone needs more
MARK = "*"  # behind a number that a gate withholds


def summary_lines(results: Results) -> list[str]:
    """Verdicts and the first metrics of every model, with as many models side by side as fit."""
    metrics = [results.metrics[key] for key in headline(results)]
    metrics = metrics or [metric for metric in results.metrics.values() if not metric.file]
    names = ["", *(metric.title.partition(" (")[0] for metric in metrics)]
    columns = {
        model.label: [model.label, *(_cell(metric, model.label) for metric in metrics)] for model in results.models
    }
    width = max(map(len, names))
    lines = ["", *_verdicts(results)]
    for labels in _blocks({label: max(map(len, cells)) + 2 for label, cells in columns.items()}, room=WIDTH - width):
        lines.append("")
        for place, name in enumerate(names):
            cells = [f"{columns[label][place]:>{own}}" for label, own in labels.items()]
            lines.append(f"{name:{width}}{''.join(cells)}".rstrip())
    if any(metric.struck for metric in metrics):
        lines.append(f"{MARK} withheld: see the gates in the report")
    return [*lines, f"95 % intervals; {results.images:,} images per model", ""]


def _verdicts(results: Results) -> list[str]:
    """One sentence per model, or the title of a report without verdicts."""
    own = results.erased
    names = {own[0].label: ", ".join(own[0].target)} if len(own) == 1 else {each.label: each.label for each in own}
    sentences = [f"{names[label]}: {each.code}. {each.sentence}" for label, each in results.verdicts.items()]
    return sentences or [title(results)]


def _cell(metric: MetricResult, label: str) -> str:
    estimate = metric.values.get(label)
    if estimate is None or estimate.value is None:
        return "not run" if estimate else "n/a"
    ends = interval(estimate, metric.unit) if estimate.lo is not None else ""
    return f"{number(estimate.value, metric.unit)} {ends}".strip() + (MARK if label in metric.struck else "")


def _blocks(widths: dict[str, int], *, room: int) -> list[dict[str, int]]:
    """Labels with their widths, in blocks that fit."""
    blocks: list[dict[str, int]] = [{}]
    for label, width in widths.items():
        if blocks[-1] and sum(blocks[-1].values()) + width > room:
            blocks.append({})
        blocks[-1][label] = width
    return blocks
