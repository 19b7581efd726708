"""Numbers of a report as marks of a chart."""

from eval.measurements import Difference, MetricResult
from eval.report.charts import Mark
from eval.report.outline import tints
from eval.report.text import change, interval, number
from eval.results import Results


def value_mark(results: Results, metric: MetricResult, label: str) -> Mark | None:
    """The number of a model; None where it has none. One without an interval has the width zero."""
    estimate = metric.values.get(label)
    if estimate is None or estimate.value is None:
        return None
    text = f"{number(estimate.value, metric.unit)} {interval(estimate, metric.unit)}"
    lo, hi = (estimate.value if end is None else end for end in (estimate.lo, estimate.hi))
    return Mark(label, tints(results)[label], estimate.value, lo, hi, text, label in metric.struck)


def change_mark(results: Results, gap: Difference, label: str, *, is_struck: bool = False) -> Mark:
    """The change of a share against the base."""
    return Mark(label, tints(results)[label], gap.value, gap.lo, gap.hi, change(gap), is_struck)
