"""How often target prompts still bring the target, and what becomes of their images."""

import numpy as np

from eval.formulas.corrected import Rate, corrected_share
from eval.measure.estimates import not_run
from eval.measure.seen import NEEDS, seen
from eval.measure.view import Evidence, Metric, Sample, View
from eval.measurements import Estimate


ASPECT = "target_image"
CORRECTED = "wider of Lang-Reiczigel and cluster bootstrap with a resampled judge, 95 %"


def judge_rates(view: View) -> tuple[Rate, Rate]:
    """Sensitivity, from the judge's card or else the base's target images; specificity, from its other images."""
    kind, base, card = view.target.kind, view.of_base, judge_card(view.evidence)
    others = base.retain.once(seen)
    specificity = Rate(int((~others).sum()), len(others))
    rates = card.get(f"{kind}_sensitivity", {})
    own = [rates[name] for name in view.target.names if name in rates]
    if own:
        n = card["n"] // len(rates)  # held-out pictures are spread evenly over the concepts
        return Rate(round(min(own) * n), n), specificity
    shown = base.forget.once(seen)
    return Rate(int(shown.sum()), len(shown)), specificity


def judge_card(evidence: Evidence) -> dict:
    """What the judge of styles and objects says about itself; empty if it says nothing of its sensitivity."""
    cards = [card for card in evidence.cards.values() if isinstance(card, dict)]
    return next((card for card in cards if {"style_sensitivity", "object_sensitivity"} & card.keys()), {})


def _proportion(view: View) -> Sample:
    return view.forget.sample(seen)


def _quality(view: View) -> Sample:
    return view.forget.sample(_is_good)


def _is_good(view: View) -> np.ndarray:
    """Whether each image is sound, and right on the axis that was not erased, (n,) bool."""
    axis = "object" if view.target.kind == "style" else "style"
    return np.array([not row["broken"] and row[f"judge_{axis}"] == row[axis] for row in view.rows], bool)


def _corrected(view: View) -> Estimate:
    rows = view.forget
    hit, (sensitivity, specificity) = rows.once(seen), judge_rates(view)
    try:
        share = corrected_share(
            hit,
            rows.clusters,
            sensitivity=sensitivity,
            specificity=specificity,
            resamples=view.evidence.suite.resamples,
        )
    except ValueError as error:
        return not_run(str(error))
    return Estimate(
        value=share.value,
        lo=share.lo,
        hi=share.hi,
        method=CORRECTED,
        n_images=len(hit),
        n_prompts=len(np.unique(rows.clusters)),
        hits=int(hit.sum()),
        about={"sensitivity": sensitivity._asdict(), "specificity": specificity._asdict()},
    )


METRICS = [
    Metric(
        key="target_proportion",
        title="Target proportion",
        direction="down",
        unit="share",
        definition="share of target prompts' images in which the judge sees it",
        needs=NEEDS,
        sample=_proportion,
        kinds=("grid",),
        aspect=ASPECT,
        claims_gone=True,
    ),
    Metric(
        key="target_proportion_corrected",
        title="Target proportion, judge-corrected",
        direction="down",
        unit="share",
        definition="the same, corrected for the judge's sensitivity and specificity (Rogan-Gladen)",
        needs=NEEDS,
        distance=_corrected,
        kinds=("grid",),
        aspect=ASPECT,
        claims_gone=True,
    ),
    Metric(
        key="target_quality",
        title="Quality of target images",
        direction="up",
        unit="share",
        definition="share of target prompts' images that are sound and show what else was asked for",
        needs=NEEDS,
        sample=_quality,
        kinds=("grid",),
        aspect=ASPECT,
    ),
]
