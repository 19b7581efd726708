"""The demonstration without its drawing: what it evaluates, and where."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval import demo
from eval.models.subject import Subject
from eval.suite.suite import Suite


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("seeds", "grid", "held_out"),
    [(None, [188, 288], [188]), ([5], [5], [5])],  # the grid of its suite has two seeds, the held-out wordings one
)
def test_the_demonstration_draws_the_seeds_of_its_suite_unless_others_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int] | None, grid: list[int], held_out: list[int]
) -> None:
    def evaluate(subjects: Sequence[Subject], suite: Suite, out: Path, *_: Any) -> None:
        assert [each.label for each in subjects] == ["erased"]
        assert out == tmp_path / "a" / "report"
        assert (suite.name, suite.grid.seeds, suite.grid.held_out_seeds) == ("canvas-demo", grid, held_out)
        raise Stop

    monkeypatch.setattr(demo, "evaluate", evaluate)
    with pytest.raises(Stop):
        demo.run(tmp_path / "a", seeds=seeds, progress=False)
