"""Every verdict from the facts that lead to it."""

import pytest

from eval.verdict import Facts, decide


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
        ("withheld", {"refused": 0.3}),
        ("withheld", {"collapse": 0.1, "leak": 0.6}),
        ("withheld", {"refused": 0.1, "erasure": 0.7}),
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
    "changes", [{"refused": 0.3}, {"collapse": 0.1, "leak": 0.6}, {"refused": 0.1, "erasure": 0.7}]
)
def test_broken_images_are_not_called_an_erasure(changes: dict[str, float]) -> None:
    """The validity gate withholds the numbers then, so neither the sentence nor the reasons may claim them."""
    found = decide(Facts(**{**vars(ERASED), **changes}))
    assert "not counted as erased" in found["sentence"]
    for reason in found["reasons"]:
        assert ("target images are still there" in reason or "still bring" in reason) is reason.endswith("by a gate).")


def test_what_an_unreliable_judge_saw_is_marked() -> None:
    assert (
        "3% of the base's target images are still there (withheld by a gate)."
        in (decide(Facts(**{**vars(ERASED), "judged": False}))["reasons"])
    )
    assert not any("withheld" in reason for reason in decide(ERASED)["reasons"])
