"""Names in a report: of models, bases and files; and what a report refuses to hold."""

import math
from pathlib import Path

import pytest

from erase.concept import Concept
from eval.groups import plan_groups
from eval.measurements import Estimate, MetricResult
from eval.models.subject import Subject
from eval.results import ModelInfo, Results, write_results
from eval.suite.suite import Suite


@pytest.mark.parametrize("label", ["base (Van Gogh)", "base", "report.html"])
def test_a_model_cannot_have_the_name_of_a_base_or_of_a_file_of_the_report(label: str, suite: Suite) -> None:
    """Its numbers would be those of the base, or its folder would stand where the report goes."""
    concepts = {label: Concept(target=("Van Gogh",)), "other": Concept(target=("Sketch",))}
    subjects = [Subject(name, Path("nowhere"), concept, "canvas", {}) for name, concept in concepts.items()]
    with pytest.raises(
        ValueError, match=r"(is taken: rename a folder|as the report calls a base .*: rename its folder)"
    ):
        plan_groups(subjects, suite)


def test_a_report_with_two_models_of_one_name_or_without_a_finite_number_is_not_written(tmp_path: Path) -> None:
    models = [ModelInfo(label="m", role="base"), ModelInfo(label="m", role="erased")]
    with pytest.raises(ValueError, match="Two models of the report are called 'm'"):
        write_results(tmp_path, Results(kind="grid", suite={}, models=models))
    odd = MetricResult(title="t", direction="up", unit="share", definition="d", values={"m": Estimate(value=math.nan)})
    with pytest.raises(ValueError, match="A number of the report is not finite"):
        write_results(tmp_path, Results(kind="grid", suite={}, models=models[:1], metrics={"t": odd}))
    assert list(tmp_path.iterdir()) == []
