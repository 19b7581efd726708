"""Several seeds of one erasure: their mean and spread, and nothing that does not belong to them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.formulas.spread import spread
from eval.measure.seeds import over_seeds, sibling_results
from eval.measurements import Estimate, MetricResult, SeedSpread
from eval.results import ModelInfo, Results, write_results


CARD: dict[str, Any] = {"config": {"method": "esd", "seed": 0, "params": {"steps": 3}}, "base": {"hash": "b"}}


def model(label: str, seed: int, **changes: Any) -> ModelInfo:
    card = CARD | {"seed": seed, "config": CARD["config"] | {"seed": seed}} | changes
    return ModelInfo(label=label, role="erased", base="base", card=card)


def report(models: dict[str, float], infos: list[ModelInfo], *, suite: str = "a", struck: str = "") -> Results:
    """UA of each label."""
    plain = MetricResult(title="", direction="up", unit="share", definition="")
    ua = replace(
        plain,
        values={label: Estimate(value=value) for label, value in models.items()},
        struck=dict.fromkeys(models, struck) if struck else {},
    )
    clip = replace(plain, values=dict.fromkeys(models))
    return Results(kind="grid", suite={"hash": suite}, models=infos, metrics={"ua": ua, "clip_retain": clip})


def one(seed: int, ua: float, **changes: Any) -> Results:
    return report({"erased": ua}, [model("erased", seed, **changes)])


def test_mean_and_spread_over_the_seeds_of_one_erasure() -> None:
    (own,) = over_seeds(one(1, 0.5), [one(0, 1.0), one(2, 0.9), one(1, 0.0)])
    assert own.seeds == (0, 1, 2)
    assert own.labels == ("erased",)
    assert own.metrics == {"ua": SeedSpread(**spread([1.0, 0.5, 0.9])._asdict())}
    assert own.metrics["ua"].mean == pytest.approx(0.8)


def test_models_of_one_report_are_taken_together() -> None:
    infos = [model("x", 0), model("y", 1), model("other", 1, config={"method": "uce", "seed": 1})]
    (own,) = over_seeds(report({"x": 0.5, "y": 0.7, "other": 0.1}, infos))
    assert own.labels == ("x", "y")
    assert own.metrics["ua"].mean == pytest.approx(0.6)


def test_what_belongs_to_another_erasure_is_left_out() -> None:
    mine = one(0, 0.5)
    steps = {"config": CARD["config"] | {"seed": 1, "params": {"steps": 4}}}
    others = [
        report({"erased": 1.0}, [model("erased", 1)], suite="c"),
        one(1, 1.0, base={"hash": "c"}),
        one(1, 1.0, **steps),
        one(1, 1.0, config=None),
    ]
    assert over_seeds(mine, others) == []
    assert over_seeds(mine) == []
    assert over_seeds(one(0, 0.5, config=None), [one(1, 1.0, config=None)]) == []


def test_a_number_that_a_gate_withholds_stays_marked() -> None:
    withheld = report({"erased": 1.0}, [model("erased", 1)], struck="The images are broken.")
    (own,) = over_seeds(one(0, 0.5), [withheld])
    assert own.metrics["ua"].struck == "The images are broken."


@pytest.mark.parametrize("values", [[], [0.5], [0.5, float("nan")]])
def test_no_spread_without_two_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="needs 2 values or more, all of them finite"):
        spread(values)


def test_siblings_are_told_by_their_name(tmp_path: Path) -> None:
    for name in ("a-seed0.eval", "a-seed1.eval", "a-seed12.eval", "a-seed2", "ab-seed3.eval", "a.eval", "a-seed4.eval"):
        (tmp_path / name).mkdir()
        if name != "a-seed4.eval":  # not evaluated yet
            write_results(tmp_path / name, report({}, [], suite=name))
    (tmp_path / "a-seed12.eval" / "report.json").write_text('{"schema_version": 3}')  # of an earlier version
    assert [each.suite["hash"] for each in sibling_results(tmp_path / "a-seed0.eval")] == ["a-seed1.eval"]
    assert sibling_results(tmp_path / "a.eval") == []
