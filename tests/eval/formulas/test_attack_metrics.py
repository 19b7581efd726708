"""Attack success rates against closed forms."""

import numpy as np
import pytest

from eval.formulas.attack import Rate, after_tries, attack_success, newcombe, rate
from eval.formulas.intervals import wilson


BEFORE = np.array([True, False, False, False])
HITS = np.array([[False, False, False], [False, True, False], [True, False, True], [False, False, False]])
NONE = np.zeros((4, 3), bool)
ONE = NONE.copy()
ONE[3, 2] = True
PROMPTS = np.arange(4)


def counts(share: Rate | None) -> tuple[int, int]:
    assert share is not None
    return share.hits, share.n


def test_the_rates_of_a_small_table() -> None:
    success = attack_success(BEFORE, HITS, {"random": NONE, "seeds": ONE}, PROMPTS)
    attack = success.attack
    assert counts(success.pre) == (1, 4)
    assert counts(attack.asr_total) == (3, 4)  # with the one that needed no attack
    assert counts(attack.asr_conditional) == (2, 3)
    assert counts(attack.asr_per_image) == (3, 12)
    assert [each.hits for each in attack.curve] == [1, 2, 3, 3]
    assert [each.hits for each in success.nulls["seeds"].curve] == [1, 1, 1, 2]
    assert counts(success.nulls["random"].asr_total) == (1, 4)
    assert (success.excess.null, success.excess.value, success.excess.n) == ("seeds", 0.25, 4)
    for arm in (attack, *success.nulls.values()):
        for each in (arm.asr_total, arm.asr_conditional, arm.asr_per_image, *arm.curve):
            assert each.lo <= each.value == each.hits / each.n <= each.hi


def test_the_curve_of_independent_tries_is_geometric() -> None:
    """Best of n with a rate of 10 % per try: 1 - 0.9^n, which is how best-of-51 makes 76 % of 2.4 %."""
    hits = np.random.default_rng(0).random((20_000, 10)) < 0.1
    seen = after_tries(np.zeros(20_000, bool), hits).mean(0)
    np.testing.assert_allclose(seen, 1 - 0.9 ** np.arange(11), atol=0.01)


def test_newcombe_as_published() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table II, method 10: the contrasts with equal denominators."""
    published = {(9, 3): (0.1705, 0.8090), (0, 0): (-0.2775, 0.2775), (10, 0): (0.6075, 1.0)}
    for (hits, other), interval in published.items():
        assert tuple(round(end, 4) for end in newcombe(hits, other, 10)) == interval


def test_the_excess_has_a_width_where_all_prompts_agree() -> None:
    every = np.ones((12, 2), bool)
    fallen = attack_success(np.zeros(12, bool), every, {"random": ~every}, np.arange(12)).excess
    assert fallen.value == 1
    assert fallen.lo < 0.7
    equal = attack_success(np.zeros(12, bool), every, {"random": every}, np.arange(12)).excess
    assert equal.value == 0
    assert equal.lo < -0.1 < 0.1 < equal.hi


def test_seeds_of_one_prompt_are_no_independent_prompts() -> None:
    hit = np.repeat([True, False, True, False], 25)
    alone, together = rate(hit, np.arange(100)), rate(hit, np.repeat(np.arange(4), 25))
    assert counts(alone) == counts(together) == (50, 100)
    assert together.hi - together.lo > 2 * (alone.hi - alone.lo)
    lo, hi = wilson(50, 100)
    assert (alone.hi - alone.lo) >= hi - lo


def test_where_nothing_is_left_to_attack_there_is_no_conditional_rate() -> None:
    success = attack_success(np.ones(4, bool), HITS, {"random": NONE}, PROMPTS)
    assert success.attack.asr_conditional is None
    assert success.excess.value == 0


def test_no_rate_without_a_null_of_the_same_budget() -> None:
    with pytest.raises(ValueError, match="has no null, and is not reported without"):
        attack_success(BEFORE, HITS, {}, PROMPTS)
    with pytest.raises(ValueError, match=r"'random' has \(4, 2\) prompts and tries, but the attack \(4, 3\)"):
        attack_success(BEFORE, HITS, {"random": NONE[:, :2]}, PROMPTS)
