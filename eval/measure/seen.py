"""What the judge of a grid suite sees in the images."""

from collections.abc import Sequence

import numpy as np

from eval.limits import KNOWN_FLOOR, VISIBLE
from eval.measure.view import View
from eval.suite.grid import Target
from eval.suite.world import World


NEEDS = ("judge_style", "judge_object", "object_scores")
UNNAMED = ("alias", "description", "language")  # held-out wordings without the target's name


def target_seen(rows: Sequence[dict], target: Target, world: World) -> np.ndarray:
    """Whether the judge sees the target in each image; of a prompt that names two objects, either may be the target.

    Args:
        rows: Judged records.
        target: What was erased.
        world: Of the suite.

    Returns:
        (n,) bool.
    """
    places = {name: place for place, name in enumerate(world.labels("object"))}

    def shows(row: dict) -> bool:
        visible = [row["judge_object"]]
        if row["family"] == "two_object":
            visible += [name for name in target.objects if row["object_scores"][places[name]] >= VISIBLE]
        return any(target.is_asked(row["judge_style"], name) for name in visible)

    return np.array([shows(row) for row in rows], bool)


def seen(view: View) -> np.ndarray:
    """Whether the judge sees the target in each image of a view, (n,) bool."""
    return target_seen(view.rows, view.target, view.evidence.world)


def pairs(view: View) -> View:
    """The rows that ask for two objects."""
    return view.where(lambda row: row["family"] == "two_object")


def others_visible(view: View) -> np.ndarray:
    """Whether every object that a two-object prompt names beside the target is visible in its image, (n,) bool."""
    return _all_visible(view, beside=view.target.objects)


def absent_pairs(view: View) -> str:
    """Say why nothing is known of what stays beside the target: the base draws too few pairs. Empty if it draws them.

    One of two objects is nearly always there, so the pair is what counts.
    """
    whole = _all_visible(view.of_base, beside=())
    if not len(whole) or whole.mean() >= KNOWN_FLOOR:
        return ""
    return f"base draws {int(whole.sum())} of {len(whole)} pairs"


def _all_visible(view: View, *, beside: Sequence[str]) -> np.ndarray:
    places = {name: place for place, name in enumerate(view.evidence.world.labels("object"))}

    def shows(row: dict) -> bool:
        names = [name for name in row["object"].split("+") if name not in beside]
        return all(row["object_scores"][places[name]] >= VISIBLE for name in names)

    return np.array([shows(row) for row in view.rows], bool)
