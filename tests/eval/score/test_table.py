"""The scores as a frame and as Parquet."""

import sys
from pathlib import Path

import pytest

from eval.score.table import Table, read_scores, to_pandas, write_parquet, write_scores


TABLES = {
    "erased": Table([{"key": "a", "seed": 1, "style_scores": [0.1, 0.9], "drift": 0.25}]),
    "base": Table([{"key": "a", "seed": 1, "style_scores": [1.0, 0.0], "drift": None}]),
}


def test_a_frame_of_all_models(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_scores(tmp_path / "scores.jsonl", TABLES)
    frame = to_pandas(read_scores(tmp_path / "scores.jsonl"))
    assert list(frame.columns) == ["model", "key", "seed", "style_scores", "drift"]
    assert frame.groupby("model").seed.sum().to_dict() == {"base": 1, "erased": 1}
    assert pandas.isna(frame.drift[1])
    assert TABLES["erased"].to_pandas().drift.tolist() == [0.25]


def test_parquet_gives_the_same_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "scores.parquet", TABLES)
    frame = pandas.read_parquet(tmp_path / "scores.parquet")
    assert frame.model.tolist() == ["erased", "base"]
    assert frame.style_scores[0].tolist() == [0.1, 0.9]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_without_the_extra_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import of it fails from here on
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for frame in (lambda: to_pandas(TABLES), TABLES["base"].to_pandas):
        with pytest.raises(ValueError, match=r"needs pandas, .* pip install 'erase\[notebook\]'"):
            frame()
    with pytest.raises(ValueError, match=r"needs pyarrow, .* pip install 'erase\[notebook\]'"):
        write_parquet(tmp_path / "scores.parquet", TABLES)
    assert not list(tmp_path.iterdir())
