"""Every verdict from the facts that lead to it."""

import pytest

from eval.gate.verdict import Facts, decide


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
    ],
)
def test_verdict(code: str, changes: dict[str, float]) -> None:
    found = decide(Facts(**{**vars(ERASED), **changes}))
    assert found["code"] == code
    assert found["sentence"]
    assert found["reasons"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"refused": 0.3}, "more images than the base's are broken"),
        ({"collapse": 0.1, "leak": 0.6}, "more images than the base's are broken"),
        ({"refused": 0.1, "erasure": 0.7}, "more images than the base's are broken"),
        ({"judged": False}, "the judge is not reliable enough"),
        ({"base_shows_target": 0.2}, "the base itself hardly shows it"),
        ({"erasure": None}, "the base itself hardly shows it"),
    ],
)
def test_a_failed_gate_leaves_no_claim_in_title_and_sentence(changes: dict[str, float], why: str) -> None:
    found = decide(Facts(**{**vars(ERASED), **changes}))
    assert found["code"] == "not measurable"
    assert found["sentence"].startswith(f"Whether the target is erased cannot be judged: {why}")
    if "the base itself" not in why:  # there the numbers stand beside the base's
        for reason in found["reasons"]:
            seen = "target images are still there" in reason or "still bring" in reason
            assert seen is reason.endswith("by a gate).")


def test_what_an_unreliable_judge_saw_is_marked() -> None:
    assert (
        "3% of the base's target images are still there (withheld by a gate)."
        in (decide(Facts(**{**vars(ERASED), "judged": False}))["reasons"])
    )
    assert not any("withheld" in reason for reason in decide(ERASED)["reasons"])
