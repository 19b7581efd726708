"""The tables of a report: accuracy per cell and per concept, held-out wordings, attacks, coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.attack.searched import NO_NULL
from eval.formulas.accuracy import Outcomes
from eval.formulas.intervals import wilson
from eval.formulas.worst import Worst, worst_concept
from eval.measure.aggregate import WEIGHTS_ABSENT, Model, Summary, prompt_index
from eval.measure.distances import not_run
from eval.score.table import Table
from eval.suite.grid import ROLES


AXES = ("style", "object")
WILSON = "Wilson, 95 %"
JOINT = "Wilson, joint over all concepts (Sidak), 95 %"


def cells(summary: Summary) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Accuracy of each cell: model -> style -> object -> accuracy of both axes with intervals, n; empty if not judged.

    The images of a cell are of one prompt and differ by the seed, so that no cluster could be resampled.
    """
    result: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    if not summary.is_judged:
        return result
    for name in summary.models:
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in summary.grid(name).rows:
            rows.setdefault((row["style"], row["object"]), []).append(row)
        for (style, obj), group in rows.items():
            hits = {axis: sum(row[f"judge_{axis}"] == row[axis] for row in group) for axis in AXES}
            result.setdefault(name, {}).setdefault(style, {})[obj] = {
                **{axis: hits[axis] / len(group) for axis in AXES},
                **{f"{axis}_interval": list(wilson(hits[axis], len(group))) for axis in AXES},
                "n": len(group),
                "ci_method": WILSON,
            }
    return result


def concepts(summary: Summary) -> dict[str, Any]:
    """Accuracy of every retained concept on both axes, the lowest, and their tenth percentile; None if not judged.

    A row holds the accuracy by model, and under ``intervals`` its counts and interval; beside the rows, ``intervals``
    are those of the lowest and the tenth percentile.
    """
    if not summary.is_judged:
        return {"rows": [], "lowest": None, "tenth_percentile": None, "intervals": {}}
    tables = {name: summary.retain(summary.grid(name)) for name in summary.models}
    rows: list[dict[str, Any]] = []
    for axis in AXES:
        for concept in summary.counted(axis, np.unique(tables["erased"][axis]).tolist()):
            each = {name: _accuracy(summary, table, axis, concept) for name, table in tables.items()}
            shares = {name: estimate["value"] for name, estimate in each.items()}
            rows.append({"axis": axis, "concept": concept, **shares, "intervals": each})
    rows.sort(key=lambda row: (row["erased"] - row["base"], row["erased"]))
    found = {
        name: worst_retained(summary, "erased", quantile)
        for name, quantile in (("lowest", 0.0), ("tenth_percentile", 0.1))
    }
    ends = {name: {"lo": each.lo, "hi": each.hi, "ci_method": JOINT} for name, each in found.items()}
    return {"rows": rows, **{name: each.value for name, each in found.items()}, "intervals": ends}


def worst_retained(summary: Summary, name: str, quantile: float) -> Worst:
    """A quantile of a model's accuracies over the retained concepts of both axes; see ``worst_concept``."""
    retain = summary.retain(summary.grid(name))
    hit = np.concatenate([retain[axis] == retain[f"judge_{axis}"] for axis in AXES])
    concept = np.concatenate([retain[axis] for axis in AXES])
    counted = np.concatenate([np.isin(retain[axis], summary.counted(axis, np.unique(retain[axis]))) for axis in AXES])
    return worst_concept(hit[counted], concept[counted], quantile=quantile)


def _accuracy(summary: Summary, table: Table, axis: str, concept: str) -> dict[str, Any]:
    """How often the judge sees a concept where it was asked for."""
    own = table.where(lambda row: row[axis] == concept)
    return summary.proportion(Outcomes(own[f"judge_{axis}"] == concept, prompt_index(own)))


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
