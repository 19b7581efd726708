"""Rows of the grid and of the held-out wordings."""

from pathlib import Path

import pytest

from eval.suite.grid import Target, find_target, grid_rows, held_out_rows
from eval.suite.world import load_world


CANVAS = load_world("canvas")


def test_the_grid() -> None:
    rows = grid_rows(["Photo", "Van_Gogh"], ["Cats", "Dogs"], [1, 2, 3], Target("object", ("Cats",)), world=CANVAS)
    assert len(rows) == len({row.key for row in rows}) == 12
    assert {row.object for row in rows if row.role == "target"} == {"Cats"}
    assert rows[6].prompt == "A Cats image in Van Gogh style."


def test_targets_by_any_of_their_names() -> None:
    assert find_target(["cats", "Sea Swimmer"], "object", CANVAS) == Target("object", ("Cats", "Fishes"))
    with pytest.raises(ValueError, match="has no style 'Cubism'; it has Photo, Sketch"):
        find_target(["Cubism"], "style", CANVAS)
    with pytest.raises(ValueError, match="erased concept is a person"):
        find_target(["Cubism"], "person", CANVAS)


def test_held_out_wordings_of_the_target_only(held_out_csv: Path) -> None:
    style = held_out_rows(held_out_csv, Target("style", ("Van_Gogh",)), [1])
    assert [row.role for row in style] == ["target", "synonym", "synonym", "multilingual", "multilingual", "combo"]
    assert len({row.key for row in style}) == 6
    cats = held_out_rows(held_out_csv, Target("object", ("Cats",)), [1])
    assert [row.prompt for row in cats if row.family == "alias"] == ["A kitty image in Photo style."]
    assert [row.object for row in cats if row.family == "two_object"] == ["Cats+Dogs"]


def test_an_unknown_family_is_named(held_out_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(held_out_csv.read_text(encoding="utf-8").replace("alias,", "nickname,"), encoding="utf-8")
    with pytest.raises(ValueError, match="family 'nickname'; expected one of paraphrase"):
        held_out_rows(path, Target("style", ("Van_Gogh",)), [1])
