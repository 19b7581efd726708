"""The gate on content: a model that draws nothing of what it is asked for shows no target either."""

import math
from collections.abc import Mapping

import numpy as np

from eval.gate.trial import Trial
from eval.limits import DESTROYED
from eval.measure.view import Evidence
from eval.measurements import MetricResult
from eval.results import Gate, ModelInfo
from eval.suite.world import COMBINATION


RETENTION, RETENTION_BESIDE_COMBINATION = ("ira", "cra_excl_target"), ("sc", "oc", "up")


def retention_keys(kind: str) -> tuple[str, ...]:
    """The metrics of other concepts, for a kind of target."""
    return RETENTION_BESIDE_COMBINATION if kind == COMBINATION else RETENTION


def check_content(trial: Trial, model: ModelInfo) -> Gate:
    """Check that a model still draws a quarter of what the base draws, above chance.

    In a grid the judge says what is drawn. For prompt files CLIP scores do: their mean, above that of the base's images
    with the prompts of others.
    """
    passed, sentence = _check_grid(trial, model) if trial.is_grid else _check_files(trial, model)
    withholds = trial.withhold(trial.claims, [model.label]) if passed is False else {}
    return Gate(name="content", model=model.label, passed=passed, sentence=sentence, withholds=withholds)


def compute_content(evidence: Evidence, model: ModelInfo, metrics: Mapping[str, MetricResult]) -> float:
    """The highest retention above chance, as a share of the base's; about 0 for a model that draws nothing asked."""
    rows = evidence.view(model.base).grid
    by_chance = {axis: 1 / len(np.unique(rows[axis])) for axis in ("style", "object")}
    kind = evidence.targets[model.group].kind
    own, cross = ("style", "object") if kind == "style" else ("object", "style")
    axes = {"ira": (own,), "cra_excl_target": (cross,), "sc": ("style",), "oc": ("object",), "up": ("style", "object")}
    shares = []
    for key in retention_keys(kind):
        ours, theirs = (metrics[key].values[label] for label in (model.label, model.base))
        if ours is None or ours.value is None or theirs is None or theirs.value is None:
            raise ValueError(f"The metric {key} has no number for {model.label}: score its images with a judge.")
        chance = math.prod(by_chance[axis] for axis in axes[key])
        room = theirs.value - chance
        shares.append((ours.value - chance) / room if room > 0 else 0.0)
    return max(shares)


def _check_grid(trial: Trial, model: ModelInfo) -> tuple[bool | None, str]:
    if not trial.evidence.is_judged:
        why = trial.evidence.provided.get("judge_style", "no scorer of the suite is a judge")
        return None, f"Not checked: whether other concepts are drawn takes a judge ({why})."
    content = compute_content(trial.evidence, model, trial.metrics)
    sentence = f"Other concepts above chance: {content:.0%} of the base's; required: {DESTROYED:.0%}."
    return content >= DESTROYED, sentence


def _check_files(trial: Trial, model: ModelInfo) -> tuple[bool | None, str]:
    unrelated = _compute_unrelated(trial)
    if unrelated is None:
        sentence = "Not checked: whether the images show what is asked for takes CLIP scores; add clip to the suite."
        return None, sentence
    scores = [trial.evidence.scores[label].records["clip"] for label in (model.label, trial.base.label)]
    ours, theirs = (float(each.astype(float).mean()) for each in scores)
    sentence = f"The mean CLIP score is {ours:.3f}, the base's {theirs:.3f}, with the prompts of others {unrelated:.3f}"
    if theirs <= unrelated:
        return False, f"{sentence}: the base does not show what is asked for either."
    content = (ours - unrelated) / (theirs - unrelated)
    return content >= DESTROYED, f"{sentence}: {content:.0%} of the base's is left; required: {DESTROYED:.0%}."


def _compute_unrelated(trial: Trial) -> float | None:
    """The mean CLIP score of the base's images with the prompts of other rows; None without CLIP or other prompts."""
    scores = trial.evidence.scores[trial.base.label]
    if not {"clip", "clip_texts"} <= scores.arrays.keys() or len(set(scores.records["prompt"].tolist())) < 2:
        return None
    images, texts = scores.arrays["clip"], scores.arrays["clip_texts"]
    return float((images * np.roll(texts, -(len(scores) // 2), axis=0)).sum(1).mean())
