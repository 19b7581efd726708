"""A new file in ``eval/measure/metrics`` is a new metric, in grid and prompt suites alike."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval.measure import metrics
from eval.measure.engine import measure
from eval.measure.registry import list_metrics
from eval.measure.view import Evidence


MODULE = '''"""Whether the seed is even."""

import numpy as np

from eval.measure.view import Metric, View


def _even(view: View) -> np.ndarray:
    return view["seed"] % 2 == 0


METRICS = [
    Metric(
        key="even",
        title="Even seeds",
        direction="up",
        unit="share",
        definition="share of images with an even seed",
        sample=lambda view: view.sample(_even),
    )
]
'''


@pytest.fixture
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "even.py").write_text(MODULE)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    list_metrics.cache_clear()
    yield
    list_metrics.cache_clear()
    sys.modules.pop("eval.measure.metrics.even", None)


@pytest.mark.usefixtures("dropped_in")
@pytest.mark.parametrize("case", ["grid-style", "prompts-coco"])
def test_a_new_file_is_a_new_metric(golden_evidence: Callable[[str], tuple[Evidence, dict]], case: str) -> None:
    evidence, _ = golden_evidence(case)
    measured = measure(evidence)
    assert list(measured.metrics)[-1] == "even"  # after those that have a place
    for label in evidence.scores:
        value = measured.metrics["even"].values[label]
        assert value
        assert value.hits == sum(row["seed"] % 2 == 0 for row in evidence.scores[label].records.rows)
    assert all("even" in pair.metrics for pair in measured.differences)


@pytest.mark.usefixtures("dropped_in")
def test_a_new_metric_stands_beside_every_prompt_file(
    golden_evidence: Callable[[str], tuple[Evidence, dict]],
) -> None:
    evidence, _ = golden_evidence("prompts-hub")
    keys = measure(evidence).metrics
    assert {"even", "even@target_image", "even@general"} <= keys.keys()
    assert keys["even@general"].file == "general"
