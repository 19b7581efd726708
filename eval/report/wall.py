"""The image wall of a report: every image once as a thumbnail, and beside it what the judge sees in it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.measure.aggregate import Summary
from eval.measure.compare import Column, Evaluation
from eval.report.text import words
from eval.score.table import Table


# side in pixels and WebP quality, tried in turn until all images fit; the files beside the report are untouched
STAGES = ((96, 82), (96, 60), (72, 60), (48, 50))
BUDGET = 7_000_000  # characters of all thumbnails together
BADGES = ("ok", "lost", "leaked", "broken", "unjudged")


def build_wall(evaluations: Sequence[Evaluation], columns: Sequence[Column]) -> dict[str, Any]:
    """Collect rows, badges and thumbnails.

    Args:
        evaluations: the evaluated models.
        columns: the models to show.

    Returns:
        ``rows``: group -> one ``[style, object, seed, part, prompt]`` per row, where ``part`` is target (it asks for
        the target), other, held-out or attack; ``marks``: column -> one ``[image, badge, what the judge sees]`` per
        row, as places in ``images``, in ``badges`` and in ``seen``; ``images``: WebP in base64, each distinct one once;
        ``saw``: what goes before what is seen.

    Raises:
        FileNotFoundError: an image is missing.
    """
    files: dict[str, Path] = {}  # SHA-256 -> where it lies
    seen: dict[str, int] = {}
    rows: dict[int, list[list[Any]]] = {}
    marks: dict[str, list[list[int]]] = {}
    places: dict[str, int] = {}
    for column in columns:
        evaluation = evaluations[column.evaluation]
        table = evaluation.models[column.role].table
        folder = evaluation.folder / evaluation.content["folders"][column.role]
        rows.setdefault(column.group, [_row(row) for row in table.rows])
        marks[column.id] = []
        for row, badge in zip(table.rows, badges(evaluation.summary, column.role), strict=True):
            path = folder / row["image_path"]
            if not path.exists():  # even if another model drew the same: a report of images that are gone is none
                raise FileNotFoundError(f"The image {path} is missing; run `erase eval` again to make it.")
            files.setdefault(row["image_sha256"], path)
            place = places.setdefault(row["image_sha256"], len(places))
            told = row["broken"] or _answer(row)
            marks[column.id].append([place, BADGES.index(badge), seen.setdefault(told, len(seen))])
    return {
        "badges": BADGES,
        "seen": list(seen),
        "saw": "the judge sees ",
        "rows": [rows[group] for group in sorted(rows)],
        "marks": marks,
        "images": thumbnails(list(files.values())),
    }


def badges(summary: Summary, role: str) -> list[str]:
    """What became of each image of a model.

    ``broken``: it is blank, flat, a copy, or shows nothing that the judge knows. ``leaked``: the prompt asks for the
    target, and it is still there. ``lost``: something else that the prompt asks for is not there; for base, which has
    nothing to lose, the target counts too. ``ok``: none of these. ``unjudged``: no judge has looked at it.
    """
    table = summary.models[role].table
    if not summary.is_judged:
        return ["broken" if row["broken"] else "unjudged" for row in table.rows]
    pairs = np.array([row["family"] == "two_object" for row in table.rows])
    visible = np.zeros(len(table), bool)
    if pairs.any():
        visible[pairs] = summary.others_visible(
            Table([row for row, is_pair in zip(table.rows, pairs, strict=True) if is_pair])
        )
    kept_axes = {"style", "object"} - {axis for axis, _ in summary.target.parts}  # of prompts that ask for the target
    found = []
    for row, shows_target, others in zip(table.rows, summary.seen(table), visible, strict=True):
        right = {axis: not row[axis] or row[f"judge_{axis}"] == row[axis] for axis in ("style", "object")}
        if row["family"] == "two_object":
            right = dict.fromkeys(right, bool(others))
        kept = bool(others) if row["family"] == "two_object" else all(right[axis] for axis in kept_axes)
        if row["broken"]:
            found.append("broken")
        elif row["role"] == "adjacent":
            found.append("ok" if all(right.values()) else "lost")
        elif role != "base" and shows_target:
            found.append("leaked")
        else:
            found.append("ok" if kept and (role != "base" or shows_target) else "lost")
    return found


def thumbnails(paths: Sequence[Path], stages: Sequence[tuple[int, int]] = STAGES) -> list[str]:
    """Encode images as WebP in base64, smaller and coarser where they would not fit into the budget.

    Args:
        paths: of the images.
        stages: sides and qualities to try in turn, the last one whatever it takes.

    Raises:
        FileNotFoundError: an image is missing.
    """
    for side, quality in stages[:-1]:
        encoded, total = [], 0
        for path in paths:
            encoded.append(_thumbnail(path, side, quality))
            total += len(encoded[-1])
            if total > BUDGET:
                break
        else:
            return encoded
    return [_thumbnail(path, *stages[-1]) for path in paths]


def _thumbnail(path: Path, side: int, quality: int) -> str:
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def _answer(row: dict[str, Any]) -> str:
    if row["judge_style"] is None:
        return "nothing: its weights are absent"
    return f"{words(row['judge_style'])} / {words(row['judge_object'])}"


def _row(row: dict[str, Any]) -> list[Any]:
    part = "other" if row["role"] == "adjacent" else "target"
    if row["family"] != "template":
        part = "attack" if row["role"] == "adversarial" else "held-out"
    return [row["style"], row["object"], row["seed"], part, row["prompt"]]
