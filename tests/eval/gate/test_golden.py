"""Gates, withheld numbers and verdicts of fixed scores are those of earlier code, but for what was decided since.

Decided: the share of broken images may exceed the base's by 5 points, and a base above 5 % fails a gate of its own; so

- in a grid, ``base`` (does it show the target?) is called ``floor``, as in prompt files, and ``base`` is about broken
  images: its models' claims are withheld and their verdict is *not measurable*;
- in a grid, what is drawn beside the target leaves ``validity`` for ``content``, as in prompt files;
- the kinds of broken images of a grid stand in the sentence, since a gate has no other fields;
- in prompt files, ``validity`` no longer fails for what the base breaks.

One function speaks of nulls: "'x' has none" for "its null has 0" and for "the suite names none".
One gate says one thing: several files that fail are several gates. A gate of a base stands under the base's label.
One order for all suites: judge, null attack, base, floor, validity, content, weights.
What cannot be checked has ``passed`` None.
The sentence of ``weights`` is that of a grid.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.gate.verdict import Facts, judge_facts
from eval.limits import BROKEN_MARGIN


GRIDS = ["grid-style", "grid-object", "grid-two-styles", "grid-combination", "grid-uncounted", "holistic"]
PROMPTS = ["prompts-hub", "prompts-coco", "prompts-nudity"]


def split(text: str | None, gates: list[dict[str, Any]]) -> set[str]:
    """The names of the earlier gates whose sentences a reason holds; ``floor`` for other sentences."""
    names = set()
    for gate in gates:
        if gate["sentence"] in (text or ""):
            names.add(gate["name"])
            text = (text or "").replace(gate["sentence"], "")
    return names | ({"floor"} if (text or "").strip() else set())


def gates_of(gated, label: str, key: str) -> set[str]:
    """The names of the gates that withhold a number."""
    return {gate.name for gate in gated.gates if key in gate.withholds.get(label, ())}


def find(gated, name: str, model: str) -> Any:
    return next(gate for gate in gated.gates if (gate.name, gate.model) == (name, model))


def breaks_too_many(gated, base: str = "base") -> bool:
    values = [gated.struck.metrics[f"collapse_{part}"].values[base].value for part in ("target", "retain")]
    return max(values) > BROKEN_MARGIN


def expect_names(old: set[str], gated, model: str, base: str) -> set[str]:
    """What withholds a claim now, from what withheld it earlier."""
    names = {"floor" if name == "base" else name for name in old} - {"validity"}
    if "validity" in old:
        names |= {name for name in ("validity", "content") if find(gated, name, model).passed is False}
    return names | ({"base"} if breaks_too_many(gated, base) else set())


@pytest.mark.parametrize("case", GRIDS)
def test_gates_of_a_grid(golden, case: str) -> None:
    gated, expected = golden(case)
    old = {gate["name"]: gate for gate in expected["gates"]}
    for name, model, earlier in (
        ("completeness", "base", "completeness"),
        ("judge", "base", "judge"),
        ("floor", "base", "base"),
        ("weights", "erased", "weights"),
    ):
        gate = find(gated, name, model)
        assert (gate.passed, gate.sentence) == (old[earlier]["passed"], old[earlier]["sentence"])
    validity, content = (find(gated, name, "erased") for name in ("validity", "content"))
    sentence, _, kinds = validity.sentence.partition(" Broken: ")
    assert f"{sentence} {content.sentence}" == old["validity"]["sentence"]
    assert (validity.passed and content.passed) == old["validity"]["passed"]
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) ([a-z ]+)", kinds)}
    assert counts == old["validity"]["kinds"]["erased"]
    assert find(gated, "base", "base").passed is not breaks_too_many(gated)
    if "null attack" in old:
        attacks = [gate for gate in gated.gates if gate.name == "null attack"]
        assert all(gate.passed for gate in attacks) is old["null attack"]["passed"]


@pytest.mark.parametrize("case", [*GRIDS, "grid-unjudged"])
def test_what_a_grid_withholds(golden, case: str) -> None:
    gated, expected = golden(case)
    metrics = gated.struck.metrics
    for key, old in expected["struck"].items():
        value = metrics[key].values["erased"]
        if value is None or value.value is None:  # there is nothing to withhold
            assert "erased" not in metrics[key].struck
            continue
        own = split(old["erased"], expected["gates"])
        claim = expect_names(own, gated, "erased", "base") if metrics[key].claims_gone else own
        assert gates_of(gated, "erased", key) == claim, key
        assert bool(metrics[key].struck.get("erased")) is bool(claim)
    listed = {key for key, old in expected["struck"].items()}
    assert {key for key, metric in metrics.items() if metric.struck} <= listed
    for row, old in zip(gated.struck.held_out, expected["held_out"], strict=True):
        own = split(old["struck"], expected["gates"])
        if row.values["erased"].value is not None:
            assert bool(row.struck.get("erased")) is bool(expect_names(own, gated, "erased", "base"))
    for row, old in zip(gated.struck.attacks, expected["attacks"], strict=True):
        reason = row.struck.get("erased", "")
        assert ("equal budget" in reason) is ("equal budget" in (old["struck"] or ""))


@pytest.mark.parametrize("case", [*GRIDS, "grid-unjudged"])
def test_verdict_of_a_grid(golden, case: str) -> None:
    gated, expected = golden(case)
    check_verdict(gated.verdicts["erased"], expected["verdict"], is_unsound=breaks_too_many(gated))


def check_verdict(verdict: Any, old: dict[str, Any], *, is_unsound: bool) -> None:
    """The verdict is the earlier one, unless the base breaks more of its images than is decided now."""
    facts = {key: value for key, value in verdict.facts.items() if key != "base_broken"}
    assert facts == pytest.approx(old["facts"], abs=1e-12)
    if not is_unsound or old["code"] == "not judged":
        assert (verdict.code, verdict.sentence) == (old["code"], old["sentence"])
        assert list(verdict.reasons) == old["reasons"]
        return
    assert verdict.code == "not measurable"
    reasons = [reason.replace(" (withheld by a gate)", "") for reason in verdict.reasons]
    assert [reason for reason in reasons if "of the base's own images are broken" not in reason] == [
        reason.replace(" (withheld by a gate)", "") for reason in old["reasons"]
    ]


def test_several_models_of_two_targets(golden) -> None:
    gated, expected = golden("several")
    for label, old in expected["evaluations"].items():
        base = next(model.base for model in gated.evidence.models if model.label == label)
        is_unsound = breaks_too_many(gated, base)
        check_verdict(gated.verdicts[label], old["verdict"], is_unsound=is_unsound)
        for name, sentence in ((gate["name"], gate["sentence"]) for gate in old["gates"]):
            if name in ("judge", "base"):
                assert find(gated, "floor" if name == "base" else name, base).sentence == sentence
        for key, struck in expected["struck"].items():
            if gated.struck.metrics[key].claims_gone and (value := gated.struck.metrics[key].values[label]):
                own = split(struck.get(label), old["gates"]) if value.value is not None else set()
                assert gates_of(gated, label, key) >= expect_names(own, gated, label, base) - {"floor"}


def test_verdicts_of_facts() -> None:
    cases = json.loads((Path(__file__).parents[1] / "golden/verdicts/expected.json").read_text(encoding="utf-8"))
    for old in cases["verdicts"]:
        verdict = judge_facts(Facts(**old["facts"]))
        assert (verdict.code, verdict.sentence, list(verdict.reasons)) == (old["code"], old["sentence"], old["reasons"])


@pytest.mark.parametrize("case", PROMPTS)
def test_gates_of_prompt_files(golden, case: str) -> None:
    gated, expected = golden(case)
    nulls = [gate["passed"] for gate in expected["gates"] if gate["name"] == "null attack"]
    assert gated.outcome("null attack") == nulls
    for old in expected["gates"]:
        own = [gate for gate in gated.gates if (gate.name, gate.model) == (old["name"], old["model"])]
        if old["name"] in ("judge", "content"):
            assert [(gate.passed, gate.sentence) for gate in own] == [(old["passed"], old["sentence"])]
        elif old["name"] == "weights":
            assert [gate.passed for gate in own] == [old["passed"]]
        elif old["name"] == "floor":
            assert " ".join(gate.sentence for gate in own) == old["sentence"]
        elif old["name"] == "validity":
            failed = [gate for gate in gated.gates if gate.name == "base" or gate.model == old["model"]]
            assert all(gate.passed for gate in failed if gate.name in ("base", "validity")) is old["passed"]


@pytest.mark.parametrize("case", PROMPTS)
def test_what_prompt_files_withhold(golden, case: str) -> None:
    gated, expected = golden(case)
    for key, metric in gated.struck.metrics.items():
        for label, old in expected["struck"][key].items():
            assert bool(metric.struck.get(label)) is bool(old), (key, label)
            if old and "the suite names none" not in old and "are broken" not in old:
                assert metric.struck[label] == old
            is_broken = {"base", "validity"} & gates_of(gated, label, key)
            assert bool(is_broken) is ("are broken" in (old or ""))
            names = split(old, expected["gates"])
            assert ("content" in gates_of(gated, label, key)) is ("content" in names)
