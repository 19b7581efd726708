"""A new file is a new metric, scorer or section of every report: in a copy of the tree nothing else is changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from eval.results import Results, read_results
from eval.score.table import read_scores


REPOSITORY = Path(__file__).parents[2]
METRIC = '''"""How long prompts are."""

import numpy as np

from eval.measure.view import Metric, View


def _letters(view: View) -> np.ndarray:
    return np.array([float(sum(sign.isalpha() for sign in row["prompt"])) for row in view.rows])


METRICS = [
    Metric(
        key="letters",
        title="Letters of the prompt",
        direction="none",
        unit="score",
        definition="mean number of letters of the prompts",
        sample=lambda view: view.sample(_letters),
    )
]
'''
SCORER = '''"""How bright an image is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.score.scorer import Batch, Scorer
from eval.suite.rows import Row
from eval.suite.suite import Suite


COLUMNS = ("brightness",)
ARRAYS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """``gain``: what the mean is multiplied by."""

    gain: float = 1.0


class Brightness(Scorer):
    """The mean of all channels."""

    def __init__(self, config: Config) -> None:
        """Keep the gain."""
        self.gain = config.gain
        self.identity = {"brightness": config.gain}
        self.card = {"judge": "mean of all channels", "gain": config.gain}

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Row]) -> Batch:
        """One number per image."""
        return Batch({"brightness": [self.gain * float(image.mean()) / 255 for image in images]})


def missing(config: Config) -> str:
    """Nothing."""
    return ""


def load(config: Config, *, suite: Suite, device: str) -> Brightness:
    """A scorer with this gain."""
    return Brightness(config)
'''
SECTION = '''"""A greeting."""

from markupsafe import Markup

from eval.results import Results


PLACE = 15


def applies(results: Results) -> bool:
    """Always."""
    return True


def html(results: Results) -> Markup:
    """One sentence."""
    return Markup("<p>Hello from {}.</p>").format(results.suite["name"])


def markdown(results: Results) -> str:
    """The same."""
    return f"Hello from {results.suite['name']}."
'''
NEW = {
    "eval/measure/metrics/letters.py": METRIC,
    "eval/score/scorers/brightness.py": SCORER,
    "eval/report/sections/hello.py": SECTION,
}
GRID = {"styles": ["Photo", "Van_Gogh"], "objects": ["Cats", "Dogs"], "seeds": [1, 2], "held_out": "", "gold": False}
BRIGHTNESS = {"brightness": {"gain": 2.0}}
SOURCES = {
    "grid": {"grid": GRID, "scorers": {"judge": {}} | BRIGHTNESS},
    "prompts": {"prompts": {"files": [{"path": "list.csv", "source": "this test"}]}, "scorers": BRIGHTNESS},
}
PROMPTS = {
    "grid": [f"A {obj} image in {style} style." for style in ("Photo", "Van Gogh") for obj in ("Cats", "Dogs")],
    "prompts": ["a cat", "two dogs", "Van Gogh"],
}
RUN = """
from erase.cli.main import main

for kind in ("grid", "prompts"):
    flags = ["--target", "Van Gogh", "--base-model", "tiny", "--device", "cpu", "--quiet"]
    try:
        main(["eval", "tiny", "--suite", f"{kind}.yaml", "--out", kind, *flags])
    except SystemExit as stopped:
        if stopped.code:
            raise
import eval
print(eval.__file__)
"""


class Report(NamedTuple):
    """The report of one suite."""

    folder: Path
    results: Results
    html: str
    markdown: str


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Report]:
    """A model evaluated with a grid and with a prompt file, in a copy of the tree that has three files more."""
    place = tmp_path_factory.mktemp("more")
    tree = place / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for package in ("eval", "erase"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=ignore)
    for weights in (REPOSITORY / "erase").rglob("*.safetensors"):  # 40 MB
        (tree / weights.relative_to(REPOSITORY)).symlink_to(weights)
    for name in ("configs", "prompts"):
        (tree / name).symlink_to(REPOSITORY / name)
    for path, text in NEW.items():
        assert not (tree / path).exists()
        (tree / path).write_text(text)
    (place / "tiny").symlink_to(tiny_folder)
    (place / "list.csv").write_text("\n".join(["prompt", *PROMPTS["prompts"]]))
    for kind, source in SOURCES.items():
        suite = {"name": f"my-{kind}", "sampler": {"steps": 1, "guidance_scale": 1.0}, "resamples": 20} | source
        (place / f"{kind}.yaml").write_text(json.dumps(suite))
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tree / "eval" / "__init__.py")
    reports = {}
    for kind in SOURCES:
        html, markdown = ((place / kind / f"report.{form}").read_text(encoding="utf-8") for form in ("html", "md"))
        reports[kind] = Report(place / kind, read_results(place / kind), html, markdown)
    return reports


@pytest.mark.parametrize("kind", SOURCES)
def test_a_new_file_is_a_new_metric(reports: dict[str, Report], kind: str) -> None:
    report, lengths = reports[kind], [sum(map(str.isalpha, prompt)) for prompt in PROMPTS[kind]]
    metric = report.results.metrics["letters"]
    assert {label: each.n_prompts for label, each in metric.values.items()} == dict.fromkeys(
        ("base", "tiny"), len(lengths)
    )
    assert metric.values["tiny"].value == pytest.approx(sum(lengths) / len(lengths))
    assert metric.changes["tiny"].value == 0
    assert "Letters of the prompt" in report.html
    assert "mean number of letters of the prompts" in report.html
    assert "| Letters of the prompt | " in report.markdown


@pytest.mark.parametrize("kind", SOURCES)
def test_a_new_file_is_a_new_scorer(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    assert report.results.provenance.cards["brightness"] == {"judge": "mean of all channels", "gain": 2.0}
    assert report.results.suite["scorers"]["brightness"] == {"gain": 2.0}
    for scores in read_scores(report.folder).values():
        assert all(0 < row["brightness"] < 2 for row in scores.records.rows)
    assert len(list(report.folder.rglob("scores/brightness-*.jsonl"))) == 2  # of base and model, kept
    for text in (report.html, report.markdown):
        assert "judge: mean of all channels, gain: 2.0" in text


@pytest.mark.parametrize("kind", SOURCES)
def test_a_new_file_is_a_new_section(reports: dict[str, Report], kind: str) -> None:
    assert f"<p>Hello from my-{kind}.</p>" in reports[kind].html
    assert f"\n\nHello from my-{kind}.\n\n" in reports[kind].markdown
