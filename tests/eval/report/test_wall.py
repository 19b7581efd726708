"""The image wall: which rows, which badges, and thumbnails that fit and hide what they must hide."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.measure.view import Evidence
from eval.report import thumbnails
from eval.report.thumbnails import wall_thumbnails
from eval.report.wall import FIRST, MOST, build_wall, choose_rows, grid_badges
from eval.results import ModelInfo, Wall, WallMark
from eval.score.table import Scores, Table
from eval.suite.grid import GridRows, Target
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.suite import Suite
from eval.suite.world import load_world


OBJECTS = load_world("canvas").labels("object")
ASKED = (  # family, style, object, seed, role
    *(("template", "Van_Gogh", "Cats", seed, "target") for seed in (1, 2, 3, 4)),
    *(("template", "Photo", "Cats", seed, "adjacent") for seed in (1, 2)),
    ("alias", "Van_Gogh", "Cats", 1, "synonym"),
    *(("two_object", "Van_Gogh", "Cats+Dogs", seed, "combo") for seed in (1, 2)),
    ("attack", "", "Cats", 1, "adversarial"),
)
HURT = (  # style and objects that the judge sees, and what is broken
    *(("Van_Gogh", "Cats", ""), ("Photo", "Cats", ""), ("Photo", "Birds", ""), ("Photo", "Cats", "flat")),
    *(("Sketch", "Cats", ""), ("Photo", "Cats", "")),
    ("Van_Gogh", "Cats", ""),
    *(("Van_Gogh", "Cats", ""), ("Photo", "Cats+Dogs", "")),
    ("Photo", "Cats", ""),
)
FORGETFUL = (("Sketch", "Cats", ""), *(("Van_Gogh", "Cats", ""),) * 3, *HURT[4:])
MODELS = [ModelInfo(label="base", role="base"), ModelInfo(label="m", role="erased", base="base")]


def save_noise(path: Path, size: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(str(path))).integers(0, 255, (size, size, 3), np.uint8)).save(path)


def grid_evidence(folder: Path, *, is_judged: bool = True) -> Evidence:
    """One cell of the target and one beside it; the base sketches its own target once."""
    scores = {}
    for label, sights in (("base", FORGETFUL), ("m", HURT)):
        records: list[dict[str, Any]] = []
        for (family, style, obj, seed, role), (seen_style, seen, broken) in zip(ASKED, sights, strict=True):
            path = f"{family}{style}{obj}{seed}.png"
            save_noise(folder / label / path)
            records.append(
                {
                    "family": family,
                    "style": style,
                    "object": obj,
                    "seed": seed,
                    "role": role,
                    "broken": broken,
                    "prompt": "a prompt",
                    "prompt_id": "p",
                    "image_path": path,
                    "image_sha256": label + path,
                    "judge_style": seen_style,
                    "judge_object": seen.split("+")[0],
                    "object_scores": [float(name in seen.split("+")) for name in OBJECTS],
                }
            )
        scores[label] = Scores(Table(records), {})
    return Evidence(
        suite=Suite(name="s", grid=GridRows(styles=["Photo", "Van_Gogh"], held_out=""), scorers={"judge": {}}),
        models=MODELS,
        scores=scores,
        targets={0: Target("style", ("Van_Gogh",))},
        provided={"judge_style": "" if is_judged else "weights absent"},
    )


def prompt_evidence(folder: Path, *, explicit: bool, count: int = 40) -> Evidence:
    """Two files; the base is nude in rows 0 and 30, the model in row 0 only."""
    scores = {}
    for label, nude in (("base", (0, 30)), ("m", (0,))):
        records = []
        for place in range(count):
            save_noise(folder / label / f"{place}.png")
            found = [("BUTTOCKS_EXPOSED", 0.7, [0, 0, 1, 1])] if place in nude else []
            records.append(
                {
                    "family": "ba"[place % 2],
                    "seed": 1,
                    "prompt": f"prompt {place}",
                    "prompt_id": f"{place}",
                    "image_path": f"{place}.png",
                    "image_sha256": f"{label}{place}",
                    "broken": "",
                    "clip": 0.3,
                    "detections": found if explicit else None,
                    "shown": [True, place != 30],
                }
            )
        scores[label] = Scores(Table(records), {})
    files = PromptFiles(files=[PromptFile(path="a.csv", source="x"), PromptFile(path="b.csv", source="x")])
    scorers = {"nudity": {"threshold": 0.45}} if explicit else {"clip": {}}
    return Evidence(suite=Suite(name="s", prompts=files, scorers=scorers), models=MODELS, scores=scores)


def build(evidence: Evidence, folder: Path) -> Wall:
    (folder / "out").mkdir(exist_ok=True)
    return build_wall(evidence, {label: folder / label for label in evidence.scores}, folder / "out")


def test_badges_of_a_grid(tmp_path: Path) -> None:
    evidence = grid_evidence(tmp_path)
    grid = ["leaked", "ok", "lost", "broken"], ["lost", "ok"], ["leaked"], ["leaked", "ok"], ["ok"]
    assert grid_badges(evidence.view("m")) == [badge for part in grid for badge in part]
    base = grid_badges(evidence.view("base"))
    assert base[:4] == ["lost", "ok", "ok", "ok"]  # it should show its own target
    unjudged = grid_evidence(tmp_path, is_judged=False)
    assert grid_badges(unjudged.view("m"))[:4] == ["unjudged", "unjudged", "unjudged", "broken"]


def test_all_rows_of_a_grid_with_what_the_judge_sees(tmp_path: Path) -> None:
    wall = build(grid_evidence(tmp_path), tmp_path)
    assert [row.part for row in wall.rows] == [*["target"] * 4, *["other"] * 2, *["held-out"] * 3, "attack"]
    assert not wall.is_pixelated
    first = wall.marks["m"][0]
    assert (first.badge, first.seen, first.image) == ("leaked", "Van Gogh / Cats", "../m/templateVan_GoghCats1.png")
    assert wall.marks["m"][3].seen == "flat"
    assert wall.saw == "the judge sees "


@pytest.mark.parametrize("explicit", [True, False])
def test_the_first_rows_of_each_file_and_those_that_a_model_changed(tmp_path: Path, explicit: bool) -> None:
    wall = build(prompt_evidence(tmp_path, explicit=explicit), tmp_path)
    shown = [int(re.sub(r"\D", "", row.prompt)) for row in wall.rows]
    badges = {label: [mark.badge for mark in marks] for label, marks in wall.marks.items()}
    if not explicit:
        assert shown == [*range(2 * FIRST)]  # both were judged alike
        assert {mark.seen for mark in wall.marks["m"]} == {"2 of 2 asked for"}
        return
    assert shown == [*range(2 * FIRST), 30]
    assert badges["base"] == ["shown", *["absent"] * 11, "shown"]
    assert badges["m"] == ["shown", *["absent"] * 12]
    assert [(mark.seen, mark.score) for mark in wall.marks["m"][:2]] == [
        ("nudity", "NudeNet 0.70, CLIP 0.300"),
        ("no nudity", "CLIP 0.300"),
    ]


def test_changed_rows_are_taken_from_everywhere_up_to_a_bound() -> None:
    def marks(badge: str) -> list[WallMark]:
        return [WallMark(image="", sha256="", badge=badge, seen="")] * 1000

    records = [{"family": "ba"[place % 2]} for place in range(1000)]
    chosen = choose_rows(records, {"base": marks("absent"), "m": marks("shown")}, MODELS)
    assert len(chosen) == MOST
    assert chosen == sorted(set(chosen))
    assert chosen[-1] > 900


def test_a_wall_needs_every_image(tmp_path: Path) -> None:
    evidence = grid_evidence(tmp_path)
    next((tmp_path / "m").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match=r"The image .*png is missing; run `erase eval` again"):
        build(evidence, tmp_path)


@pytest.mark.parametrize(("explicit", "side"), [(True, 8), (False, 60)])
def test_images_that_may_be_explicit_have_eight_pixels(tmp_path: Path, explicit: bool, side: int) -> None:
    wall = build(prompt_evidence(tmp_path, explicit=explicit), tmp_path)
    encoded = wall_thumbnails(wall, tmp_path / "out")
    assert len(encoded) == sum(map(len, wall.marks.values()))
    sizes = {Image.open(io.BytesIO(base64.b64decode(image))).size for image in encoded.values()}
    assert sizes == {(side, side)}


def test_explicit_is_what_was_erased_or_what_the_suite_looks_for(tmp_path: Path) -> None:
    evidence = prompt_evidence(tmp_path, explicit=False)
    models = [MODELS[0], replace(MODELS[1], kind="explicit")]
    assert build(replace(evidence, models=models), tmp_path).is_pixelated


def test_many_large_images_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thumbnails get smaller where they would not fit; noise is the worst that can be asked of a codec."""
    path = tmp_path / "noise.png"
    save_noise(path, 128)
    monkeypatch.setattr(thumbnails, "BUDGET", 100_000)
    few, many = thumbnails.thumbnails([path]), thumbnails.thumbnails([path] * 20)
    assert len(many) == 20
    assert sum(map(len, many)) <= 100_000 < 20 * len(few[0])
