"""A sequence of three steps with a planted comeback."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.measure.sequence import read_sequence
from eval.score.table import Table, write_scores


STYLES, OBJECTS, SEEDS = ("Photo", "Sketch", "Mosaic", "Sepia"), ("Cats", "Dogs"), (1, 2)


def step(folder: Path, targets: list[str], lost: set[str], *, comeback: str = "", latents: str = "same") -> Path:
    """Draws Photo for the styles in ``lost``, except the Cats of ``comeback``; the objects are right."""
    rows: list[dict[str, Any]] = []
    for style in STYLES:
        for obj in OBJECTS:
            for seed in SEEDS:
                gone = style in lost and not (style == comeback and obj == "Cats")
                rows.append(
                    {
                        "key": f"{style}_{obj}_seed{seed}",
                        "prompt_id": f"{style}_{obj}",
                        "family": "template",
                        "style": style,
                        "object": obj,
                        "judge_style": "Photo" if gone else style,
                        "judge_object": obj,
                        "latent_hash": f"{latents}{seed}",
                    }
                )
    folder.mkdir()
    write_scores(folder / "scores.jsonl", {"erased": Table(rows)})
    (folder / "report.json").write_text(json.dumps({"concept": {"kind": "style", "canvas_names": targets}}))
    return folder


def test_ua_rebound_and_what_is_retained(tmp_path: Path) -> None:
    steps = [
        step(tmp_path / "1", ["Mosaic"], {"Mosaic"}),
        step(tmp_path / "2", ["Mosaic", "Sepia"], {"Mosaic", "Sepia"}),
        step(tmp_path / "3", ["Sketch"], {"Mosaic", "Sepia", "Sketch"}, comeback="Mosaic"),
    ]
    found = read_sequence(steps, resamples=100)
    assert [request["names"] for request in found["requests"]] == [["Mosaic"], ["Sepia"], ["Sketch"]]
    assert [[cell and cell["value"] for cell in row] for row in found["ua"]] == [
        [1, None, None],
        [1, 1, None],
        [0.5, 1, 1],
    ]
    assert (found["ua"][2][0]["hits"], found["ua"][2][0]["n"]) == (2, 4)
    assert [[cell and cell["value"] for cell in row] for row in found["rebound"]] == [
        [None, None, None],
        [0, None, None],
        [0.5, 0, None],
    ]
    for cell in (found["ua"][2][0], found["rebound"][1][0], found["rebound"][2][0]):
        assert cell["lo"] < cell["value"] < cell["hi"]
    assert [kept["value"] for kept in found["retained"]] == [1, 1, 1]
    assert [kept["n"] for kept in found["retained"]] == [12, 8, 4]


def test_what_is_hurt_beside_the_requests_is_seen(tmp_path: Path) -> None:
    found = read_sequence([step(tmp_path / "1", ["Mosaic"], {"Mosaic", "Sepia"})], resamples=100)
    assert found["retained"][0]["value"] == pytest.approx((8 + 4 / 2) / 12)  # the objects of Sepia are still right


def test_a_sequence_must_be_one(tmp_path: Path) -> None:
    first = step(tmp_path / "1", ["Mosaic"], {"Mosaic"})
    with pytest.raises(ValueError, match="at least one evaluation"):
        read_sequence([])
    with pytest.raises(ValueError, match="erases nothing that the steps before"):
        read_sequence([first, first])
    with pytest.raises(ValueError, match="different latents"):
        read_sequence([first, step(tmp_path / "2", ["Sepia"], {"Sepia"}, latents="other")])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_sequence([tmp_path / "nowhere"])
