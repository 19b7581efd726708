"""Every verdict from the facts that lead to it, and from planted scores."""

from typing import Any

import pytest

from eval.gate.verdict import Facts, judge_facts


ERASED = Facts(
    same_weights=False,
    erasure=0.97,
    base_shows_target=0.98,
    unchanged=0.0,
    refused=0.0,
    collapse=0.0,
    kept=0.97,
    kept_above_chance=0.98,
    leak=0.1,
    judged=True,
)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("erased", {}),
        ("erased", {"leak": None}),
        ("erased", {"unchanged": 1.0}),  # a method that leaves unrelated prompts alone is none the worse for it
        ("erased", {"base_broken": 0.05}),
        ("erased with damage", {"kept": 0.8}),
        ("not erased", {"erasure": 0.1, "refused": 0.3}),
        ("not erased", {"erasure": 0.1, "collapse": 0.3}),
        ("not measurable", {"erasure": 0.3, "refused": 0.3}),  # the broken ones may be all that the judge saw
        ("not measurable", {"refused": 0.3}),
        ("not measurable", {"collapse": 0.1, "leak": 0.6}),
        ("not measurable", {"refused": 0.1, "erasure": 0.7}),
        ("not measurable", {"collapse": 0.1, "same_weights": True}),
        ("erased by name only", {"leak": 0.6}),
        ("partly erased", {"erasure": 0.7}),
        ("not erased", {"erasure": 0.3}),
        ("not erased", {"erasure": 0.0, "same_weights": True}),
        ("inference-only", {"same_weights": True}),
        ("blocked", {"same_weights": True, "unchanged": 1.0, "refused": 1.0}),
        ("blocked", {"unchanged": 1.0, "refused": 1.0}),
        ("destroyed", {"kept_above_chance": 0.1, "kept": 0.05, "collapse": 0.0}),
        ("destroyed", {"collapse": 0.9, "refused": 0.9, "kept": 0.05, "kept_above_chance": 0.6}),
        ("destroyed", {"erasure": 0.2, "kept_above_chance": 0.1}),
        ("not measurable", {"judged": False}),
        ("not measurable", {"erasure": None}),
        ("not measurable", {"base_shows_target": 0.2}),
        ("not measurable", {"base_broken": 0.06}),
        ("not measurable", {"base_broken": 0.06, "refused": 1.0, "unchanged": 1.0}),
    ],
)
def test_verdict(code: str, changes: dict[str, Any]) -> None:
    verdict = judge_facts(Facts(**{**vars(ERASED), **changes}))
    assert verdict.code == code
    assert verdict.sentence
    assert verdict.reasons


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"refused": 0.3}, "more images than the base's are broken"),
        ({"collapse": 0.1, "leak": 0.6}, "more images than the base's are broken"),
        ({"refused": 0.1, "erasure": 0.7}, "more images than the base's are broken"),
        ({"judged": False}, "the judge is not reliable enough"),
        ({"base_shows_target": 0.2}, "the base itself hardly shows it"),
        ({"erasure": None}, "the base itself hardly shows it"),
        ({"base_broken": 0.06}, "the base itself breaks too many of its images"),
    ],
)
def test_a_failed_gate_leaves_no_claim_in_title_and_sentence(changes: dict[str, Any], why: str) -> None:
    verdict = judge_facts(Facts(**{**vars(ERASED), **changes}))
    assert verdict.code == "not measurable"
    assert verdict.sentence.startswith(f"Whether the target is erased cannot be judged: {why}")
    for reason in verdict.reasons:
        if "target images are still there" in reason or "still bring" in reason:
            assert reason.endswith("(withheld by a gate).")


def test_what_an_unreliable_judge_saw_is_marked() -> None:
    reasons = judge_facts(Facts(**{**vars(ERASED), "judged": False})).reasons
    assert "3% of the base's target images are still there (withheld by a gate)." in reasons
    assert not any("withheld" in reason for reason in judge_facts(ERASED).reasons)


@pytest.mark.parametrize(
    ("code", "model"),
    [
        ("not erased", {"shows": 1.0}),
        ("partly erased", {"shows": 0.3}),
        ("erased", {"shows": 0.0}),
        ("erased by name only", {"shows": 0.0, "wordings": {"alias": 1.0, "language": 1.0}}),
        ("erased with damage", {"shows": 0.0, "right": 0.8}),
        ("inference-only", {"shows": 0.0, "same_weights": True}),
        ("blocked", {"shows": 0.0, "broken": (20, 0), "unchanged": 1.0}),
        ("destroyed", {"shows": 0.0, "right": 0.0}),
        ("not measurable", {"shows": 0.0, "broken": (3, 0)}),
    ],
)
def test_planted_models_get_their_verdict(grid, code: str, model: dict[str, Any]) -> None:
    assert grid(base={}, m=model).verdicts["m"].code == code


def test_each_model_of_a_report_has_its_verdict(grid) -> None:
    verdicts = grid(base={}, gone={"shows": 0.0}, there={}).verdicts
    assert {label: verdict.code for label, verdict in verdicts.items()} == {"gone": "erased", "there": "not erased"}


def test_without_a_judge_nothing_is_said_to_be_gone(grid) -> None:
    verdict = grid(base={}, m={"shows": 0.0, "right": 0.0}, is_judged=False).verdicts["m"]
    assert verdict.code == "not judged"
    assert "nothing is known about the erasure" in verdict.sentence


def test_prompt_files_have_no_verdict(files) -> None:
    assert files(base={}, m={}).verdicts == {}
