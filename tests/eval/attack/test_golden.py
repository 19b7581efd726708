"""The numbers of an attack, from fixed scores, are those that earlier code computed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from eval.attack.outcome import compute_outcome
from eval.score.table import Table
from eval.suite.grid import Target


GOLDEN = Path(__file__).parents[1] / "golden"


def read_tables(folder: Path) -> dict[str, Table]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row.pop("model"), []).append(row)
    return {label: Table(own) for label, own in rows.items()}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> value, of nested dictionaries and lists."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for name, each in items for key, leaf in leaves(each, f"{path}.{name}").items()}


@pytest.mark.parametrize("case", ["attack", "attack-withheld"])
def test_numbers_of_fixed_scores(case: str) -> None:
    setup, expected = (
        json.loads((GOLDEN / case / f"{name}.json").read_text(encoding="utf-8")) for name in ("setup", "expected")
    )
    target = Target(setup["kind"], tuple(setup["names"]))
    outcome = compute_outcome(read_tables(GOLDEN / case), target, resamples=setup["resamples"])
    results, earlier = leaves(asdict(outcome.results)), leaves(expected["attack_results"])
    assert results.keys() == earlier.keys()
    for path, value in earlier.items():
        wanted = pytest.approx(value, rel=0, abs=1e-12) if isinstance(value, float) else value
        assert results[path] == wanted, path
    assert {name: asdict(each) for name, each in outcome.broken.items()} == expected["broken"]
    assert outcome.withheld == (expected["withheld"] or "")
