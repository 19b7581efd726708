"""leak@k: how many prompts bring the target in any of k seeds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from eval.formulas.leak import leak_at_k
from eval.measure.seen import NEEDS, UNNAMED, seen
from eval.measure.view import Evidence, Floor, Metric, Part, Sample, View


def _named(view: View) -> View:
    return view.forget


def _unnamed(view: View) -> View:
    return view.where(lambda row: row["family"] in UNNAMED)


def _prompts(view: View) -> np.ndarray:
    """The number of the prompt id of each row: seeds are counted for each id, and two ids of one text are a cluster."""
    return np.unique(view["prompt_id"], return_inverse=True)[1]


def _sample(rows_of: Callable[[View], View]) -> Callable[[View], Sample | str]:
    def sample(view: View) -> Sample | str:
        rows = rows_of(view)
        if not len(rows):
            return "this suite has no such wordings of the target"
        prompts = _prompts(rows)
        k = int(np.bincount(prompts).min())
        if k < 2:
            return f"leak@k needs several seeds per prompt; this suite has {k}"
        shows = seen(rows)
        first = np.unique(prompts, return_index=True)[1]
        return Sample(
            # every prompt of a part has the same number of seeds, so each leaks or does not
            values=leak_at_k(shows, prompts, k) == 1,
            base=leak_at_k(seen(rows.of_base), prompts, k) == 1,
            clusters=rows.clusters[first],
            n_images=len(rows),
            about={"k": k, "curve": [float(leak_at_k(shows, prompts, tries).mean()) for tries in range(1, k + 1)]},
        )

    return sample


def _adapt(rows_of: Callable[[View], View]) -> Callable[[Metric, Evidence, Part], Metric]:
    """Name the metric after its k; the grid and the held-out wordings may have other seeds."""

    def adapt(metric: Metric, evidence: Evidence, part: Part) -> Metric:
        rows = rows_of(evidence.view(evidence.models[0].label))
        k = int(np.bincount(_prompts(rows)).min()) if len(rows) else 0
        return replace(metric, title=metric.title.replace("@k", f"@{k}")) if k > 1 else metric

    return adapt


def _shown(view: View) -> np.ndarray | None:
    return seen(_unnamed(view))


METRICS = [
    Metric(
        key="leak_at_k",
        title="leak@k",
        direction="down",
        unit="share",
        definition="share of target prompts of which any of k seeds shows the target",
        needs=NEEDS,
        sample=_sample(_named),
        kinds=("grid",),
        aspect="target_image",
        claims_gone=True,
        adapt=_adapt(_named),
    ),
    Metric(
        key="leak_at_k_unnamed",
        title="leak@k, unnamed",
        direction="down",
        unit="share",
        definition="the same for held-out wordings without the target's name",
        needs=NEEDS,
        sample=_sample(_unnamed),
        kinds=("grid",),
        aspect="target_image",
        claims_gone=True,
        floor=Floor(what="shows the target for wordings without its name", hits=_shown),
        adapt=_adapt(_unnamed),
    ),
]
