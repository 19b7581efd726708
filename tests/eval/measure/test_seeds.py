"""Several seeds of one erasure: their mean and spread, and nothing that does not belong to them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from erase import erase_concept
from eval.evaluate import evaluate
from eval.formulas.spread import spread
from eval.measure.seeds import over_seeds, sibling_reports
from eval.score.scoring import Scorers
from eval.suite.config import SuiteConfig


def report(seed: int, ua: float, **changes: Any) -> dict[str, Any]:
    config = {"method": "esd", "seed": seed, "params": {"steps": 3}}
    return {
        "schema_version": 1,
        "suite": {"hash": "a"},
        "provenance": {"erasure_config": config, "erasure_seed": seed, "base": {"hash": "b"}},
        "metrics": {
            "ua": {"erased": {"value": ua}, "struck": None},
            "clip_retain": {"erased": None},
        },
    } | copy.deepcopy(changes)


def test_mean_and_spread_over_the_seeds_of_one_erasure() -> None:
    found = over_seeds(report(1, 0.5), [report(0, 1.0), report(2, 0.9), report(1, 0.0)])
    assert found is not None
    assert found["seeds"] == [0, 1, 2]
    assert found["metrics"] == {"ua": spread([1.0, 0.5, 0.9])._asdict() | {"struck": None}}
    assert found["metrics"]["ua"]["mean"] == pytest.approx(0.8)


def test_what_belongs_to_another_erasure_is_left_out() -> None:
    mine = report(0, 0.5)
    provenance = mine["provenance"] | {"erasure_seed": 1}
    other = {"erasure_config": provenance["erasure_config"] | {"params": {"steps": 4}}}
    for changes in (
        {"suite": {"hash": "c"}},
        {"provenance": provenance | {"base": {"hash": "c"}}},
        {"provenance": provenance | other},
        {"provenance": provenance | {"erasure_config": None}},
    ):
        assert over_seeds(mine, [report(1, 1.0, **changes)]) is None
    assert over_seeds(mine, []) is None
    unknown = mine["provenance"] | {"erasure_config": None}
    assert over_seeds(report(0, 0.5, provenance=unknown), [report(1, 1.0, provenance=unknown)]) is None


def test_a_number_that_a_gate_withholds_stays_marked() -> None:
    withheld = {"ua": {"erased": {"value": 1.0}, "struck": "The images are broken."}, "clip_retain": {"erased": None}}
    found = over_seeds(report(0, 0.5), [report(1, 1.0, metrics=withheld)])
    assert found is not None
    assert found["metrics"]["ua"]["struck"] == "The images are broken."


@pytest.mark.parametrize("values", [[], [0.5], [0.5, float("nan")]])
def test_no_spread_without_two_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="needs 2 values or more, all of them finite"):
        spread(values)


def test_a_report_of_several_models_is_no_seed() -> None:
    prompts = {"schema_version": 2, "suite": {"hash": "a"}, "provenance": {"versions": {}}, "metrics": {}}
    assert over_seeds(report(0, 0.5), [prompts]) is None
    several = {"schema_version": 2, "suite": {"hash": "a"}, "evaluations": {"one": "one"}, "metrics": {}}
    assert over_seeds(report(0, 0.5), [several]) is None


def test_siblings_are_told_by_their_name(tmp_path: Path) -> None:
    for name in ("a-seed0.eval", "a-seed1.eval", "a-seed12.eval", "a-seed2", "ab-seed3.eval", "a.eval", "a-seed4.eval"):
        (tmp_path / name).mkdir()
        if name != "a-seed4.eval":  # not evaluated yet
            (tmp_path / name / "report.json").write_text(json.dumps({"name": name}))
    assert [each["name"] for each in sibling_reports(tmp_path / "a-seed0.eval")] == ["a-seed1.eval", "a-seed12.eval"]
    assert sibling_reports(tmp_path / "a.eval") == []


def test_the_last_evaluation_reports_all_seeds(
    tiny_folder: Path, suite: SuiteConfig, scorers: Scorers, tmp_path: Path
) -> None:
    contents = []
    for seed in (0, 1):
        out, settings = tmp_path / f"vg-seed{seed}", {"steps": 2, "lr": 1e-3, "pool_size": 4, "num_inference_steps": 4}
        erase_concept(tiny_folder, "Van Gogh", out=out, seed=seed, device="cpu", quiet=True, **settings)
        page = evaluate(
            out, suite, tmp_path / f"{out.name}.eval", cache=tmp_path / "cache", scorers=scorers, progress=False
        )
        contents.append(json.loads(page.with_name("report.json").read_text(encoding="utf-8")))
    first, last = contents
    assert first["over_seeds"] is None
    assert last["over_seeds"]["seeds"] == [0, 1]
    ours = [content["metrics"]["ira"]["erased"]["value"] for content in contents]
    assert last["over_seeds"]["metrics"]["ira"] == spread(ours)._asdict() | {"struck": None}
