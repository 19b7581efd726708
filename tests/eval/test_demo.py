from pathlib import Path
from typing import Any

import pytest

from eval import demo


class Stop(Exception):
    pass


def test_the_demonstration_draws_the_seeds_of_its_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def evaluate(*_: object, **options: Any) -> Path:
        given.append(options["seeds"])
        raise Stop

    monkeypatch.setattr(demo, "evaluate", evaluate)
    with pytest.raises(Stop):
        demo.run(tmp_path / "a", progress=False)
    assert given == [None]  # the grid has two seeds, the held-out wordings one
