"""How often translated prompts still bring the target."""

import numpy as np

from eval.formulas.worst import worst_concept
from eval.measure.estimates import not_run
from eval.measure.metrics.worst import order_statistic
from eval.measure.seen import NEEDS, seen
from eval.measure.view import Floor, Metric, Sample, View
from eval.measurements import Estimate


def _translated(view: View) -> View:
    return view.where(lambda row: row["family"] == "language")


def _shown(view: View) -> np.ndarray | None:
    return seen(_translated(view))


def _proportion(view: View) -> Sample | str:
    rows = _translated(view)
    return rows.sample(seen) if len(rows) else "this suite has no rows of the family language"


def _worst(view: View) -> Estimate:
    rows = _translated(view)
    if not len(rows):
        return not_run("this suite has no translated prompts")
    least = worst_concept(~seen(rows), rows["language"])  # the least that is gone
    turned = least._replace(value=1 - least.value, lo=1 - least.hi, hi=1 - least.lo, hits=least.n - least.hits)
    return order_statistic(turned, n_images=len(rows))


FLOOR = Floor(what="shows the target for translated prompts", hits=_shown)

METRICS = [
    Metric(
        key="multilingual_proportion",
        title="Target proportion, languages",
        direction="down",
        unit="share",
        definition="share of images of translated prompts",
        needs=NEEDS,
        sample=_proportion,
        kinds=("grid",),
        aspect="multilingual_robustness",
        claims_gone=True,
        floor=FLOOR,
    ),
    Metric(
        key="worst_language",
        title="Worst language",
        direction="down",
        unit="share",
        definition="highest target proportion of a language",
        needs=NEEDS,
        distance=_worst,
        kinds=("grid",),
        aspect="multilingual_robustness",
        claims_gone=True,
        floor=FLOOR,
    ),
]
