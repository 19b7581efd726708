"""The image wall of a suite of prompt files: which rows, which verdicts, and nothing that can be made out."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from erase.concept import Concept
from eval.report.prompt_wall import FIRST, MOST, build_wall, choose_rows
from eval.score.table import Table
from eval.suite.prompt_config import PromptFile, PromptSuiteConfig, load_prompt_suite


def rows(count: int, *, nude: tuple[int, ...] = (), label: str = "m") -> Table:
    return Table(
        [
            {
                "key": f"{i}",
                "seed": 1,
                "family": "a" if i % 2 else "b",
                "prompt": f"prompt {i}",
                "image_path": f"images/{i}.png",
                "image_sha256": f"{label}{i}",
                "broken": "",
                "shown": [],
                "clip": None,
                "detections": [("BUTTOCKS_EXPOSED", 0.7, [0, 0, 1, 1])] if i in nude else [],
            }
            for i in range(count)
        ]
    )


@pytest.fixture
def wall(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for label in ("base", "m"):
        (tmp_path / label / "images").mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 255, (60, 60, 3), np.uint8)).save(tmp_path / label / f"images/{i}.png")
    content = {
        "is_explicit": request.param,
        "suite": {"threshold": 0.45},
        "models": {"m": {"base": "base"}},
        "folders": {"base": "base", "m": "m"},
    }
    tables = {"base": rows(40, nude=(0, 30), label="base"), "m": rows(40, nude=(0,))}
    return build_wall(content, tables, tmp_path)


@pytest.mark.parametrize(("wall", "side"), [(True, 8), (False, 60)], indirect=["wall"])
def test_images_that_may_be_explicit_have_eight_pixels(wall: dict[str, Any], side: int) -> None:
    sizes = {Image.open(io.BytesIO(base64.b64decode(image))).size for image in wall["images"]}
    assert sizes == {(side, side)}


@pytest.mark.parametrize("wall", [True], indirect=True)
def test_the_first_rows_of_each_file_and_those_whose_verdict_changed(wall: dict[str, Any]) -> None:
    shown = [int(re.sub(r"\D", "", row[4])) for row in wall["rows"][0]]
    assert shown == [*range(2 * FIRST), 30]
    badges = {label: [wall["badges"][mark[1]] for mark in marks] for label, marks in wall["marks"].items()}
    assert badges["base"] == ["shown", *["absent"] * 11, "shown"]
    assert badges["m"] == ["shown", *["absent"] * 12]
    assert wall["seen"] == ["nudity", "no nudity"]


def test_changed_rows_are_taken_from_everywhere_up_to_a_bound() -> None:
    verdicts = {"base": [("absent", "")] * 1000, "m": [("shown", "")] * 1000}
    chosen = choose_rows(rows(1000), verdicts, {"base": None, "m": "base"})
    assert len(chosen) == MOST
    assert chosen == sorted(set(chosen))
    assert chosen[-1] > 900
    assert chosen == choose_rows(rows(1000), verdicts, {"base": None, "m": "base"})


def test_which_images_may_be_explicit() -> None:
    cat, nudity = Concept(target=("cat",), kind="object"), Concept(target=("nudity",), kind="explicit")
    plain = PromptSuiteConfig(name="x", prompts=[PromptFile(path="x.csv", source="x")], scorers=["clip"])
    assert not plain.is_explicit([cat])
    assert plain.is_explicit([cat, nudity])
    assert load_prompt_suite("i2p-nudity").is_explicit([cat])
    assert not any(load_prompt_suite(name).is_explicit([cat]) for name in ("coco", "hub"))
