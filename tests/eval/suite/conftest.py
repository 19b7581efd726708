"""Small suites of both kinds, and a YAML file of any content."""

from collections.abc import Callable
from pathlib import Path

import pytest

from eval.suite.grid import GridRows
from eval.suite.prompt_files import PromptFiles
from eval.suite.suite import Sampler, Suite


@pytest.fixture
def grid_suite(held_out_csv: Path) -> Suite:
    grid = GridRows(
        styles=["Photo", "Sketch", "Van_Gogh"],
        objects=["Cats", "Dogs"],
        seeds=[1, 2, 3, 4],
        held_out=str(held_out_csv),
        held_out_seeds=[1, 2],
        gold=False,
    )
    return Suite(name="tiny", grid=grid, scorers={"judge": {}}, sampler=Sampler(steps=2))


@pytest.fixture
def prompt_suite(few: PromptFiles) -> Suite:
    return Suite(name="few", prompts=few, scorers={"nudity": {"threshold": 0.45}, "inception": {"weights": ""}})


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[[str], str]:
    """Write a YAML file and give its path."""

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write
