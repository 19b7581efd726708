"""How long a model takes for an image."""

import numpy as np

from eval.formulas.intervals import cluster_bootstrap
from eval.measure.view import Metric, View
from eval.measurements import Estimate


def _seconds(view: View) -> Estimate:
    """Images of one batch share its time, so batches are what varies."""
    seconds = view.grid["wall_s"].astype(float)
    batch = np.unique(seconds, return_inverse=True)[1]
    value, n = float(seconds.mean()), len(seconds)
    if batch.max() == 0:
        return Estimate(value=value, method="none: one batch", n_images=n)
    lo, hi = cluster_bootstrap([seconds], batch, resamples=view.evidence.suite.resamples)
    return Estimate(value=value, lo=lo, hi=hi, method="cluster bootstrap over batches, 95 %", n_images=n)


METRICS = [
    Metric(
        key="seconds_per_image",
        title="Seconds per image",
        direction="down",
        unit="distance",
        definition="wall clock of generation; compare on one machine only",
        distance=_seconds,
        aspect="efficiency",
    )
]
