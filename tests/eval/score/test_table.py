"""The scores on disk, and as a frame."""

import sys
from pathlib import Path

import numpy as np
import pytest

from eval.score.table import Scores, Table, read_scores, to_pandas, write_scores


SCORES = {
    "erased/a": Scores(
        Table([{"key": "a\u2028b", "seed": 1, "style_scores": [0.1, 0.9], "drift": 0.25}]),
        {"clip": np.eye(1, 3, dtype=np.float32), "judge": np.ones((1, 2, 2))},
    ),
    "base": Scores(Table([{"key": "a", "seed": 1, "style_scores": [1.0, 0.0], "drift": None}])),
}


def test_scores_come_back(tmp_path: Path) -> None:
    write_scores(tmp_path / "out", SCORES)
    scores = read_scores(tmp_path / "out")
    assert list(scores) == ["erased/a", "base"]
    for label, each in SCORES.items():
        assert scores[label].records.rows == each.records.rows
        assert scores[label].arrays.keys() == each.arrays.keys()
        for name, array in each.arrays.items():
            np.testing.assert_array_equal(scores[label].arrays[name], array)
            assert scores[label].arrays[name].dtype == array.dtype
    assert {path.name: oct(path.stat().st_mode)[-2:] for path in (tmp_path / "out").iterdir()} == {
        "scores.jsonl": "44",
        "features.safetensors": "44",
    }


def test_a_part_of_the_rows() -> None:
    rows = Table([{"place": place} for place in range(4)])
    part = Scores(rows, {"x": np.arange(8).reshape(4, 2)}).take(np.array([3, 1]))
    assert (part.records["place"].tolist(), part.arrays["x"].tolist(), len(part)) == ([3, 1], [[6, 7], [2, 3]], 2)
    assert len(Scores(rows, {"x": np.zeros((4, 2))}).take(np.array([], int)).arrays["x"]) == 0


@pytest.mark.parametrize("name", ["scores.jsonl", "features.safetensors"])
def test_a_folder_without_scores(tmp_path: Path, name: str) -> None:
    write_scores(tmp_path, SCORES)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} does not exist; score the images"):
        read_scores(tmp_path)


def test_a_frame_of_all_models() -> None:
    pandas = pytest.importorskip("pandas")
    frame = to_pandas(SCORES)
    assert list(frame.columns) == ["model", "key", "seed", "style_scores", "drift"]
    assert frame.groupby("model").seed.sum().to_dict() == {"base": 1, "erased/a": 1}
    assert pandas.isna(frame.drift[1])


def test_without_the_extra_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import of it fails from here on
    with pytest.raises(ValueError, match=r"needs pandas, .* pip install 'erase\[notebook\]'"):
        to_pandas(SCORES)
