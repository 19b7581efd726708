"""How far the seeds of one prompt lie apart."""

import numpy as np

from eval.measure.view import Metric, Sample, View


def _diversity(view: View) -> Sample | None:
    rows = view.retain
    own, prompts = _spreads(rows)
    base, _ = _spreads(rows.of_base)
    if not len(own):  # each prompt has one seed only
        return None
    return Sample(values=own, base=base, clusters=prompts, n_images=len(rows))


def _spreads(view: View) -> tuple[np.ndarray, np.ndarray]:
    """The mean distance between the judge's features of each prompt with several seeds, and the prompts' numbers."""
    features, clusters = view.scores.arrays["judge"], view.clusters
    spreads, prompts = [], []
    for prompt in np.unique(clusters):
        own = features[clusters == prompt]
        if len(own) > 1:
            gaps = np.linalg.norm(own[:, None] - own[None], axis=2)
            spreads.append(gaps.sum() / (len(own) * (len(own) - 1)))
            prompts.append(prompt)
    return np.array(spreads), np.array(prompts, int)


METRICS = [
    Metric(
        key="diversity",
        title="Diversity",
        direction="up",
        unit="distance",
        definition="mean feature distance between seeds of one prompt, prompts without the target",
        needs=("array:judge",),
        sample=_diversity,
        kinds=("grid",),
    )
]
