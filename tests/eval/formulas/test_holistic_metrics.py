"""The metrics behind the holistic suite against independent implementations, closed forms and simulations."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from torchmetrics.functional.pairwise import pairwise_cosine_similarity

from eval.formulas.accuracy import Answers, fine_grained
from eval.formulas.alignment import nearest_names, selective_alignment
from eval.formulas.cmmd import cmmd
from eval.formulas.corrected import Rate, corrected_share, lang_reiczigel, rogan_gladen
from eval.formulas.drift import cosine_drift, rms_drift
from eval.formulas.intervals import difference_interval, ratio_interval, wilson
from eval.formulas.leak import leak_at_k
from eval.formulas.sequential import rebound
from eval.formulas.worst import worst_concept


STYLES, OBJECTS = ["A", "B", "C"], ["x", "y", "z"]


def grid(per_cell: int) -> tuple[np.ndarray, np.ndarray]:
    cells = [cell for cell in itertools.product(STYLES, OBJECTS) for _ in range(per_cell)]
    return np.array([style for style, _ in cells]), np.array([obj for _, obj in cells])


def test_fine_grained_by_counting_one_image_after_the_other() -> None:
    style, obj = grid(20)
    rng = np.random.default_rng(0)
    seen_style, seen_object = rng.choice(STYLES, len(style)), rng.choice(OBJECTS, len(obj))
    found = fine_grained(Answers(style, obj, seen_style, seen_object, np.arange(len(style)) // 20), target=("B", "y"))
    counts: dict[str, list[bool]] = {"ua": [], "sc": [], "oc": [], "up": []}
    for s, o, p, q in zip(style, obj, seen_style, seen_object, strict=True):
        if s == "B" and o == "y":
            counts["ua"].append(p != "B" or q != "y")
        elif s == "B":
            counts["sc"].append(p == s)
        elif o == "y":
            counts["oc"].append(q == o)
        else:
            counts["up"].append(p == s and q == o)
    assert {name: len(hits) for name, hits in counts.items()} == {"ua": 20, "sc": 40, "oc": 40, "up": 80}
    assert {name: outcomes.value for name, outcomes in found.items()} == pytest.approx(
        {name: np.mean(hits) for name, hits in counts.items()}
    )
    assert len(set(found["up"].prompt.tolist())) == 4
    with pytest.raises(ValueError, match="no images for UA of D / x"):
        fine_grained(Answers(style, obj, style, obj, np.arange(len(style))), target=("D", "x"))


def test_rebound_is_the_loss_since_the_step_of_the_request() -> None:
    before, after = np.ones(4, bool), np.array([False, False, True, True])
    back = rebound(before, after, np.arange(4))
    assert back.value == 0.5
    assert back.lo < 0.5 < back.hi
    with pytest.raises(ValueError, match="equal, non-zero numbers"):
        rebound(before, after[:2], np.arange(4))


def test_rogan_gladen_undoes_the_judge() -> None:
    rng = np.random.default_rng(0)
    shown = rng.random(200_000) < 0.07
    seen = np.where(shown, rng.random(len(shown)) < 0.8, rng.random(len(shown)) < 0.1)
    assert seen.mean() == pytest.approx(0.149, abs=0.003)  # twice what is there
    assert rogan_gladen(seen.mean(), 0.8, 0.9) == pytest.approx(0.07, abs=0.004)
    assert rogan_gladen(0.05, 0.8, 0.9) == 0  # fewer alarms than false ones: cut, not negative
    with pytest.raises(ValueError, match="no better than chance"):
        rogan_gladen(0.5, 0.4, 0.6)


def test_a_perfect_judge_with_endless_references_gives_agresti_coull() -> None:
    z = 1.959963984540054
    share, size = (10 + z * z / 2) / (40 + z * z), 40 + z * z
    half = z * np.sqrt(share * (1 - share) / size)
    many = Rate(10**9, 10**9)
    assert lang_reiczigel(10, 40, many, many) == pytest.approx((share - half, share + half), abs=1e-6)


def test_the_corrected_interval_covers_with_an_uncertain_judge() -> None:
    rng = np.random.default_rng(1)
    prompts, covered, naive = np.repeat(np.arange(30), 5), 0, 0
    for _ in range(100):
        shown = rng.random(150) < 0.2
        hit = np.where(shown, rng.random(150) < 0.9, rng.random(150) < 0.08)
        judge = {
            "sensitivity": Rate(int(rng.binomial(60, 0.9)), 60),
            "specificity": Rate(int(rng.binomial(80, 0.92)), 80),
        }
        found = corrected_share(hit, prompts, **judge, resamples=200)
        covered += found.lo <= 0.2 <= found.hi
        plain = wilson(int(hit.sum()), 150)
        naive += plain.lo <= 0.2 <= plain.hi
    assert covered >= 93
    assert naive < covered


def test_leak_at_k_by_enumeration() -> None:
    shows = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1], bool)
    prompt = np.repeat([7, 3, 5], 4)
    for k in range(1, 5):
        expected = [
            np.mean([any(chosen) for chosen in itertools.combinations(shows[prompt == name], k)]) for name in (3, 5, 7)
        ]
        assert leak_at_k(shows, prompt, k) == pytest.approx(expected)
    assert leak_at_k(shows, prompt, 1).mean() == pytest.approx(shows.mean())
    with pytest.raises(ValueError, match="from 1 to the 4 seeds"):
        leak_at_k(shows, prompt, 5)


def test_the_worst_concept_is_covered_although_it_was_picked() -> None:
    rng = np.random.default_rng(0)
    truth = {"a": 0.7, "b": 0.75, "c": 0.8, "d": 0.85, "e": 0.9, "f": 0.95}
    concept = np.repeat(list(truth), 40)
    chance = np.array([truth[name] for name in concept])
    covered, naive = np.zeros(2), 0
    for _ in range(200):
        hit = rng.random(len(concept)) < chance
        for place, quantile in enumerate((0.0, 0.1)):
            found = worst_concept(hit, concept, quantile=quantile)
            covered[place] += found.lo <= np.quantile(list(truth.values()), quantile) <= found.hi
            assert found.lo <= found.value <= found.hi
        lowest = worst_concept(hit, concept)
        assert lowest.value == lowest.hits / lowest.n == min(hit[concept == name].mean() for name in truth)
        naive += lowest.value < 0.7
    assert (covered >= 190).all()
    assert naive > 110  # the lowest of several estimates is too low more often than not


def test_cmmd_holds_blocks_and_is_the_same_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first, second, prompt = rng.normal(size=(1500, 4)), rng.normal(size=(1500, 4)) + 0.5, np.arange(1500) // 100
    monkeypatch.setattr("eval.formulas.cmmd.BLOCK", 1500)
    whole = cmmd(first, second, prompt)
    monkeypatch.setattr("eval.formulas.cmmd.BLOCK", 64)
    tracemalloc.start()
    found = cmmd(first, second, prompt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx(whole, rel=1e-9)
    assert peak < 1500 * 1500 * 8  # bytes of one whole kernel


def test_cmmd_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(24, 6)), rng.normal(size=(24, 6)) + 0.5
    prompt = np.repeat(np.arange(8), 3)

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        x, y = ([row / np.sqrt(row @ row) for row in side] for side in (x, y))

        def mean_kernel(one: list[np.ndarray], other: list[np.ndarray]) -> float:
            return float(np.mean([np.exp(-((a - b) @ (a - b)) / 200) for a in one for b in other]))

        return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))

    found = cmmd(first, second, prompt)
    assert found.value == pytest.approx(distance(first, second), rel=1e-9)
    left = np.array([distance(first[prompt != p], second[prompt != p]) for p in range(8)])
    half = 1.96 * np.sqrt(7 / 8 * ((left - left.mean()) ** 2).sum())
    assert found.hi - found.value == pytest.approx(half, rel=1e-6)
    assert cmmd(3 * first, second, prompt).value == pytest.approx(found.value)  # only directions count
    with pytest.raises(ValueError, match="needs 16 images of 2 prompts; got 8 of 8"):
        cmmd(first[:8], second[:8], np.arange(8))
    with pytest.raises(ValueError, match="paired rows"):
        cmmd(first, second[:20], prompt)


def test_selective_alignment_noun_by_noun() -> None:
    rng = np.random.default_rng(0)
    visible, asked = rng.random((50, 4)) < 0.5, rng.random((50, 4)) < 0.5
    erased = np.array([False, True, False, True])
    found = selective_alignment(visible, asked, erased, np.arange(50))
    nouns = [(row, k) for row in range(50) for k in (0, 2) if asked[row, k]]
    assert (len(found.hit), found.hit.sum()) == (len(nouns), sum(visible[place] for place in nouns))
    assert found.prompt.tolist() == [row for row, _ in nouns]
    with pytest.raises(ValueError, match="anything beside the target"):
        selective_alignment(visible, asked & erased, erased, np.arange(50))


def test_neighbours_are_those_of_torchmetrics() -> None:
    features = np.random.default_rng(0).normal(size=(9, 5))
    names = list("abcdefghi")
    order = pairwise_cosine_similarity(torch.from_numpy(features[[2]]), torch.from_numpy(features))[0].argsort()
    expected = [names[k] for k in order.flip(0).tolist() if k != 2]
    assert nearest_names(features, names, ["c"], 8) == expected
    assert nearest_names(7 * features, names, ["c"], 3) == expected[:3]
    assert set(nearest_names(features, names, ["c", expected[0]], 7)) == set(expected[1:])
    with pytest.raises(ValueError, match="9 neighbours of 8 other names"):
        nearest_names(features, names, ["c"], 9)


def test_drift_of_known_distances() -> None:
    first = np.random.default_rng(0).normal(size=(5, 3, 4, 4))
    assert rms_drift(first, first + 0.25) == pytest.approx(np.full(5, 0.25))
    flat = first.reshape(5, -1)
    torch_cosine = torch.cosine_similarity(torch.from_numpy(flat), torch.from_numpy(flat[::-1].copy())).numpy()
    assert cosine_drift(flat, flat[::-1]) == pytest.approx(1 - torch_cosine)
    with pytest.raises(ValueError, match="equal shapes"):
        rms_drift(first, first[:4])


def test_paired_intervals_cover_and_profit_from_pairing() -> None:
    rng = np.random.default_rng(0)
    prompts, covered, widths = np.repeat(np.arange(40), 3), np.zeros(2), []
    for _ in range(100):
        base = rng.random(120) < 0.8
        ours = base & (rng.random(120) < 0.9)  # a tenth of what the base shows is lost
        gap = difference_interval(ours, base, prompts, resamples=200)
        share = ratio_interval(ours, base, prompts, resamples=200)
        covered += (gap.lo <= -0.08 <= gap.hi), (share.lo <= 0.9 <= share.hi)
        widths.append(gap.hi - gap.lo)
    assert (covered >= 93).all()
    assert np.mean(widths) < 2 * 1.96 * np.sqrt((0.72 * 0.28 + 0.8 * 0.2) / 120)  # two independent samples
    same = difference_interval(base, base, prompts)
    assert same.lo < 0 < same.hi
    with pytest.raises(ValueError, match="no hit"):
        ratio_interval(base, np.zeros(120), prompts)
