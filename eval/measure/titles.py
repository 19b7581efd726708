"""Titles of metrics that depend on the suite or on the weights of a scorer."""

from collections.abc import Callable
from dataclasses import replace

from eval.measure.view import Evidence, Metric, Part


NOT_PUBLISHED = "weights are not the published ones"


def name_weights(scorer: str) -> Callable[[Metric, Evidence, Part], Metric]:
    """Say in the title that other weights than the published ones made the number, if the scorer's card says so."""

    def adapt(metric: Metric, evidence: Evidence, part: Part) -> Metric:
        card = evidence.cards.get(scorer, {})
        is_published = card.get("is_published", True) if isinstance(card, dict) else True
        return metric if is_published else replace(metric, title=f"{metric.title}, {NOT_PUBLISHED}")

    return adapt


def name_world(metric: Metric, evidence: Evidence, part: Part) -> Metric:
    """Put the name of the suite's world into the title."""
    return replace(metric, title=metric.title.format(world=evidence.world.name))


def name_clip(metric: Metric, evidence: Evidence, part: Part) -> Metric:
    """Put the name of the CLIP model into the title."""
    name = evidence.suite.scorers.get("clip", {}).get("model", "")
    return replace(metric, title=f"{metric.title} ({name or 'no'} CLIP)")
