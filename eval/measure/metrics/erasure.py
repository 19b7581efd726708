"""The share of the base's target images that no longer show the target."""

from eval.measure.seen import NEEDS, seen
from eval.measure.view import Metric, Sample, View


def _erasure(view: View) -> Sample | str:
    sample = view.forget.sample(seen, is_share_of_base=True)
    if sample.base is None or not sample.base.any():
        return "the base never shows the target"
    return sample


METRICS = [
    Metric(
        key="normalised_erasure",
        title="Normalised erasure",
        direction="up",
        unit="share",
        definition="1 - share of target images that show the target / that of base",
        needs=NEEDS,
        sample=_erasure,
        kinds=("grid",),
        has_share=False,
        claims_gone=True,
    )
]
