"""The tables of a report: accuracy per cell and per concept, held-out wordings, attacks, coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.aggregate import WEIGHTS_ABSENT, Model, Summary, not_run, prompt_index
from eval.grid import ROLES
from eval.metrics.accuracy import Outcomes, per_concept
from eval.searched import NO_NULL
from eval.table import Table


def cells(summary: Summary) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Accuracy of each cell: model -> style -> object -> style accuracy, object accuracy, n; empty if not judged."""
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    if not summary.is_judged:
        return result
    for name in summary.models:
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in summary.grid(name).rows:
            rows.setdefault((row["style"], row["object"]), []).append(row)
        for (style, obj), group in rows.items():
            result.setdefault(name, {}).setdefault(style, {})[obj] = {
                "style": float(np.mean([row["judge_style"] == style for row in group])),
                "object": float(np.mean([row["judge_object"] == obj for row in group])),
                "n": len(group),
            }
    return result


def concepts(summary: Summary) -> dict[str, Any]:
    """Accuracy of every retained concept on both axes, the lowest, and their tenth percentile; None if not judged."""
    if not summary.is_judged:
        return {"rows": [], "lowest": None, "tenth_percentile": None}
    tables = {name: summary.retain(summary.grid(name)) for name in summary.models}
    rows: list[dict[str, Any]] = []
    for axis in ("style", "object"):
        by_model = {name: per_concept(table[axis], table[f"judge_{axis}"]) for name, table in tables.items()}
        for concept in summary.counted(axis, by_model["erased"]):
            rows.append(
                {"axis": axis, "concept": concept, **{name: found[concept] for name, found in by_model.items()}}
            )
    rows.sort(key=lambda row: (row["erased"] - row["base"], row["erased"]))
    values = np.array([row["erased"] for row in rows])
    return {
        "rows": rows,
        "lowest": float(values.min()),
        "tenth_percentile": float(np.quantile(values, 0.1)),
    }


def held_out(summary: Summary) -> list[dict[str, Any]]:
    """Share of images with the target per held-out wording, and per language where there are several."""
    rows = [row for row in summary.models["erased"].table.rows if row["family"] in ROLES]
    result = []
    for family in dict.fromkeys(row["family"] for row in rows):
        languages = list(dict.fromkeys(row["language"] for row in rows if row["family"] == family))
        result.append(_wording(summary, family, ""))
        if len(languages) > 1:
            result += [_wording(summary, family, language) for language in languages]
    return result


def _wording(summary: Summary, family: str, language: str) -> dict[str, Any]:
    """One family in one language, or in all of them."""
    parts = {
        name: model.table.where(lambda row: row["family"] == family and (not language or row["language"] == language))
        for name, model in summary.models.items()
    }
    shown = {name: _share(summary, part) for name, part in parts.items()}
    erasure = summary.erasure(parts["erased"], parts["base"]) if summary.is_judged else None
    return {"family": family, "language": language, **shown, "normalised_erasure": erasure}


def attacks(summary: Summary) -> list[dict[str, Any]]:
    """Share of images with the target per attack, and of the null attacks beside it."""
    rows = [row for row in summary.models["erased"].table.rows if row["family"] in ("attack", "attack_null")]
    result = []
    for attack, family in dict.fromkeys((row["attack"], row["family"]) for row in rows):
        entry: dict[str, Any] = {"attack": attack, "null": family == "attack_null"}
        for name, model in summary.models.items():
            part = model.table.where(lambda row: (row["attack"], row["family"]) == (attack, family))  # noqa: B023
            entry[name] = _share(summary, part) | {"n": len(part)}
        result.append(entry)
    return result


def without_null(attacks: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Attack -> why its share may not be read: it has no null attack of as many images."""
    images = {(row["attack"], row["null"]): row["erased"]["n"] for row in attacks}
    return {
        name: f"{NO_NULL}; {name!r} has {own} images and its null has {images.get((name, True), 0)}."
        for (name, is_null), own in images.items()
        if not is_null and own != images.get((name, True), 0)
    }


def _share(summary: Summary, part: Table) -> dict[str, Any]:
    """Share of images with the target, or why there is none."""
    if not summary.is_judged:
        counts = {"n_images": len(part), "n_prompts": len(np.unique(part["prompt_id"]))}
        return not_run(WEIGHTS_ABSENT) | counts
    return summary.proportion(Outcomes(summary.seen(part), prompt_index(part)))


def coverage(
    models: dict[str, Model], *, styles: Sequence[str], objects: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    """How many images were expected and scored; a gap raises before this is called."""
    grid, expected = len(styles) * len(objects) * len(seeds), {}
    for name, model in models.items():
        found = len(model.table.where(lambda row: row["family"] == "template"))
        worded = len(model.table.where(lambda row: row["family"] in ROLES))
        expected[name] = {"grid_expected": grid, "grid_found": found, "held_out_found": worded}
    return {
        "styles": len(styles),
        "objects": len(objects),
        "cells": len(styles) * len(objects),
        "seeds": list(seeds),
        "images": expected,
    }
