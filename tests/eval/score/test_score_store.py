"""Scores are made once: read by later evaluations, kept through kills, and by scorer, image and question."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.score.store import Key, Store, score_once


REPOSITORY = Path(__file__).parents[3]
KEYS = [Key(f"image {place}") for place in range(10)]


class Asked:
    """Scores a key by its place, and keeps which places it was asked for."""

    def __init__(self, score: Callable[[int], object] = float) -> None:
        self.score = score
        self.places: list[int] = []

    def __call__(self, chunk: slice) -> list[object]:
        places = list(range(10))[chunk]
        self.places += places
        return [self.score(place) for place in places]


def test_what_is_known_is_not_asked_again(tmp_path: Path) -> None:
    first, second, other = Asked(), Asked(), Asked()
    found = score_once(Store(tmp_path, "x", {"weights": "a"}), KEYS, first, batch_size=4)
    assert found == score_once(Store(tmp_path, "x", {"weights": "a"}), KEYS, second, batch_size=4)
    assert (found, first.places, second.places) == ([float(place) for place in range(10)], list(range(10)), [])
    score_once(Store(tmp_path, "x", {"weights": "b"}), KEYS, other, batch_size=4)  # another scorer
    assert other.places == list(range(10))
    asked = [Key(key.image_sha256, "a cat?") for key in KEYS]  # another question
    score_once(Store(tmp_path, "x", {"weights": "a"}), asked, other, batch_size=4)
    assert other.places == 2 * list(range(10))
    nobody = Asked()
    for _ in range(2):
        score_once(Store(tmp_path, "x", None), KEYS, nobody, batch_size=4)  # nothing tells this scorer from another one
    assert nobody.places == 2 * list(range(10))


def test_arrays_come_back_with_every_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(10, 3, 2)).astype(np.float32)
    make = Asked(lambda place: {"features": values[place], "name": f"n{place}", "score": float(values[place, 0, 0])})
    for _ in range(2):
        found = score_once(Store(tmp_path, "x", {}), KEYS, make, batch_size=4)
        stacked = np.stack([each["features"] for each in found])
        assert stacked.dtype == np.float32
        np.testing.assert_array_equal(stacked, values)
        assert [each["score"] for each in found] == values[:, 0, 0].tolist()
    assert len(make.places) == 10


@pytest.mark.parametrize("cut", [3, -1])
def test_a_line_that_was_cut_costs_its_batch(tmp_path: Path, cut: int) -> None:
    score_once(Store(tmp_path, "x", {}), KEYS, Asked(), batch_size=4)
    (path,) = (tmp_path / "scores").iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:cut])
    again = Asked()
    assert score_once(Store(tmp_path, "x", {}), KEYS, again, batch_size=4) == [float(place) for place in range(10)]
    assert again.places == list(range(4, 10))  # the second batch as a whole, as an evaluation that never stopped
    assert [json.loads(line)["score"] for line in path.read_bytes().splitlines()] == [float(n) for n in range(10)]


def test_equal_images_have_the_score_of_the_first(tmp_path: Path) -> None:
    keys = [*KEYS[:2], *KEYS[:2], *KEYS[4:]]
    for _ in range(2):
        found = score_once(Store(tmp_path, "x", {}), keys, Asked(), batch_size=3)
        assert found[:5] == [0.0, 1.0, 0.0, 1.0, 4.0]


@pytest.fixture(scope="module")
def killed_scorings(tmp_path_factory: pytest.TempPathFactory) -> dict:
    script = Path(__file__).with_name("killed_scorings.py")
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("scorings"))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_killed_scoring_goes_on_and_scores_at_most_one_batch_twice(killed_scorings: dict) -> None:
    whole = {"nudity": 40, "vlm": 40, "image": 40, "text": 20}  # 20 images of base, and of the model; their prompts
    assert killed_scorings["unbroken"] == whole
    batches = {"nudity": 16, "vlm": 4, "image": 8, "text": 8}
    for name, each in [each for each in killed_scorings.items() if each[0] != "unbroken"]:
        assert each["killed"], name
        assert each["same scores"], name
        assert not any(each["again"].values()), name
        lost = 0
        for what, size in batches.items():
            key = {"image": "clip", "text": "clip_texts"}.get(what, what)
            twice = each["shown"][what] - (whole[what] - each["kept"].get(key, 0))
            assert 0 <= twice < size, (name, what)
            lost += twice > 0
        assert lost <= 1, name


def test_the_kills_of_scorings_hit_different_scorers(killed_scorings: dict) -> None:
    kept = [sum(each["kept"].values()) for name, each in killed_scorings.items() if name != "unbroken"]
    assert kept == sorted(kept)
    assert len(set(kept)) == len(kept)
