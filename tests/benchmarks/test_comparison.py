"""The time that a comparison of many models takes."""

import sys
import time
from typing import Any

import numpy as np
import pytest

from eval.measure.bootstrap import draw_clusters
from eval.measure.engine import measure
from eval.measure.view import Evidence
from eval.results import ModelInfo
from eval.score.table import Scores, Table
from eval.suite.grid import GridRows, Target
from eval.suite.rows import Row
from eval.suite.suite import Suite
from eval.suite.world import load_world


WORLD = load_world("unlearncanvas")
TARGET = Target("style", (WORLD.labels("style")[0],))
GRID = GridRows(world="unlearncanvas", held_out="")  # 5,000 images of each model
ANSWERS = ("judge_style", "judge_object", "object_scores", "clip")
FEW, MANY, MOST = 6, 20, 3.0


def answer(rows: list[Row], seed: int) -> Scores:
    """A judge that is right nine times of ten, and random scores."""
    random = np.random.default_rng(seed)
    labels = {kind: WORLD.labels(kind) for kind in ("style", "object")}
    n = len(rows)
    wrong = {
        kind: np.where(random.random(n) < 0.1, random.integers(0, len(own), n), -1) for kind, own in labels.items()
    }
    numbers, breaks = random.random((n, 2)), random.random(n) < 0.03
    records: list[dict[str, Any]] = [
        {
            "key": row.key,
            "prompt_id": row.prompt_id,
            "prompt": row.prompt,
            "seed": row.seed,
            "role": row.role,
            "family": row.family,
            "style": row.style,
            "object": row.object,
            "latent_hash": str(row.seed),
            "wall_s": 0.1,
            "judge_style": labels["style"][wrong["style"][place]] if wrong["style"][place] >= 0 else row.style,
            "judge_object": labels["object"][wrong["object"][place]] if wrong["object"][place] >= 0 else row.object,
            "object_scores": [],
            "clip": numbers[place, 0],
            "drift": numbers[place, 1],
            "broken": "blank" if breaks[place] else "",
            "same_as_base": False,
        }
        for place, row in enumerate(rows)
    ]
    return Scores(Table(records))


def plant(count: int) -> Evidence:
    """As many erased models of one target, and their base."""
    rows = GRID.rows(TARGET)
    labels = [f"model {place}" for place in range(count)]
    models = [ModelInfo(label=label, role="erased", base="base") for label in labels]
    return Evidence(
        suite=Suite(name="benchmark", grid=GRID, scorers={"timm_pair": {}, "clip": {}}),
        models=[ModelInfo(label="base", role="base"), *models],
        scores={label: answer(rows, place) for place, label in enumerate(["base", *labels])},
        targets={0: TARGET},
        provided=dict.fromkeys(ANSWERS, ""),
    )


def time_comparison(count: int) -> float:
    """Seconds of the processor, with nothing drawn beforehand; the better of two."""
    seconds = []
    for _ in range(2):
        evidence = plant(count)
        draw_clusters.cache_clear()
        start = time.process_time()
        measured = measure(evidence)
        seconds.append(time.process_time() - start)
        assert len(measured.differences) == count * (count + 1) / 2
    return min(seconds)


@pytest.mark.slow
def test_twenty_models_take_at_most_three_times_as_long_as_six() -> None:
    """Numbers that have a value per image, and all of their differences.

    Distances between sets of features are left out: each costs the same, however many models there are.
    """
    few, many = time_comparison(FEW), time_comparison(MANY)
    sys.stdout.write(f"\n{FEW} models: {few:.2f} s, {MANY} models: {many:.2f} s, {many / few:.2f} times as long\n")
    assert many <= MOST * few
