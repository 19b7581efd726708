"""Metrics against closed forms and planted damage."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from eval.formulas.accuracy import Answers, check_complete, unlearn_canvas
from eval.formulas.frechet import frechet_distance, frechet_interval
from eval.formulas.intervals import cluster_bootstrap, wilson
from eval.formulas.kid import kernel_distance


STYLES, OBJECTS = ["A", "B", "C"], ["x", "y"]


def grid(per_cell: int = 5) -> tuple[np.ndarray, np.ndarray]:
    cells = [(style, obj) for style in STYLES for obj in OBJECTS for _ in range(per_cell)]
    return np.array([style for style, _ in cells]), np.array([obj for _, obj in cells])


def values(predicted_style: np.ndarray, predicted_object: np.ndarray, kind: str, *targets: str) -> dict[str, float]:
    style, obj = grid()
    found = unlearn_canvas(
        Answers(style, obj, predicted_style, predicted_object, np.arange(len(style))), kind=kind, targets=targets
    )
    return {name: outcomes.value for name, outcomes in found.items()}


def test_a_perfect_judge_of_the_base() -> None:
    assert values(*grid(), "style", "A") == {"ua": 0, "ira": 1, "cra_excl_target": 1, "cra_code": 1}


def test_a_perfect_erasure_of_a_style() -> None:
    style, obj = grid()
    assert values(np.where(style == "A", "B", style), obj, "style", "A") == {
        "ua": 1,
        "ira": 1,
        "cra_excl_target": 1,
        "cra_code": 1,
    }


def test_the_two_conventions_of_cra_differ_on_the_target_only() -> None:
    style, obj = grid()
    found = values(style, np.where(style == "A", "nothing", obj), "style", "A")
    assert found["cra_excl_target"] == 1
    assert found["cra_code"] == pytest.approx(2 / 3)


def test_an_object_target_swaps_the_axes() -> None:
    style, obj = grid()
    found = values(np.where(obj == "y", "A", style), np.where(obj == "x", "y", obj), "object", "x")
    assert found == {"ua": 1, "ira": 1, "cra_excl_target": pytest.approx(1 / 3), "cra_code": pytest.approx(2 / 3)}


def test_two_targets() -> None:
    style, obj = grid()
    found = values(np.where(style == "A", "B", style), obj, "style", "A", "B")
    assert found["ua"] == 0.5
    assert found["ira"] == 1


def test_a_missing_image_is_named() -> None:
    style, obj = grid()
    check_complete(style, obj, styles=STYLES, objects=OBJECTS, per_cell=5)
    with pytest.raises(ValueError, match="cell C / y has 4 images instead of 5"):
        check_complete(style[:-1], obj[:-1], styles=STYLES, objects=OBJECTS, per_cell=5)
    with pytest.raises(ValueError, match="cell D / x has 0 images"):
        check_complete(style, obj, styles=[*STYLES, "D"], objects=OBJECTS, per_cell=5)


def test_no_images_is_no_hundred_per_cent() -> None:
    with pytest.raises(ValueError, match="0 of 30 images of D"):
        values(*grid(), "style", "D")


def test_wilson_as_published() -> None:
    # Newcombe (1998), 81 of 263 and 0 of 20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    with pytest.raises(ValueError, match="6 hits of 5"):
        wilson(6, 5)


def test_the_bootstrap_sees_clusters() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(40), 10)
    values = (rng.random(40) < 0.5).repeat(10).astype(float)  # all images of a prompt agree
    clustered = cluster_bootstrap([values], prompts)
    alone = cluster_bootstrap([values], np.arange(400))
    assert clustered.hi - clustered.lo > 2 * (alone.hi - alone.lo)
    assert clustered.hi - clustered.lo == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(40), rel=0.2)
    assert cluster_bootstrap([values], prompts) == clustered  # seeded


def test_the_bootstrap_covers() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        chance = rng.beta(4, 2, size=30).repeat(5)
        found = cluster_bootstrap(
            [(rng.random(150) < chance).astype(float)], np.repeat(np.arange(30), 5), resamples=200, seed=trial
        )
        hits += found.lo <= 4 / 6 <= found.hi
    assert hits >= 86


def test_frechet_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3)) * [1, 2, 3] + [1, 0, -2]
    # |mean gap|^2 + sum (s1 - s2)^2 for diagonal covariances
    assert frechet_distance(x, y) == pytest.approx(5 + 0 + 1 + 4, rel=0.06)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_equals_torchmetrics() -> None:
    class Same(torch.nn.Module):
        num_features = 6

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    x, y = rng.normal(size=(100, 6)) @ mix, rng.normal(size=(80, 6)) + 1
    metric = FrechetInceptionDistance(feature=Same(), normalize=True, input_img_size=(1, 2, 3)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(x).reshape(-1, 1, 2, 3), real=True)
    metric.update(torch.from_numpy(y).reshape(-1, 1, 2, 3), real=False)
    assert frechet_distance(x, y) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_frechet_refuses_few_images() -> None:
    with pytest.raises(ValueError, match="6-dimensional features needs at least 7 images on each side; got 6 and 50"):
        frechet_distance(np.zeros((6, 6)), np.zeros((50, 6)))


def coverage(rows: int, *, paired: bool, as_if: int) -> float:
    """How often the interval holds the expectation of the estimate: 200 pairs of sets of 120 in 4 dimensions.

    ``rows`` of a prompt resemble each other, and the interval is told prompts of ``as_if`` rows.
    """
    rng, n = np.random.default_rng(0), 120
    values, ends = [], []
    for _ in range(200):
        x, y = (np.repeat(rng.normal(size=(n // rows, 4)), rows, 0) + rng.normal(size=(n, 4)) / 2 for _ in range(2))
        y = (0.8 * x + 0.5 * y if paired else 1.2 * y) + 0.4
        values.append(frechet_distance(x, y))
        ends.append(frechet_interval(x, y, np.arange(n) // as_if, None if paired else np.arange(n) // as_if))
    return float(np.mean([lo <= np.mean(values) <= hi for lo, hi in ends]))


def test_the_frechet_interval_covers_the_expectation_of_the_estimate() -> None:
    found = [coverage(1, paired=True, as_if=1), coverage(1, paired=False, as_if=1), coverage(4, paired=True, as_if=4)]
    assert all(0.9 <= share <= 0.99 for share in found), found  # 0.95, and 3 standard errors of 200 repeats
    assert coverage(4, paired=True, as_if=1) < 0.85  # rows of one prompt are no evidence of their own


def test_the_frechet_interval_with_constant_features_and_groups_of_unequal_size() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 3)) + 1
    prompt = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 10, 10])
    dead = np.zeros((60, 1))  # a covariance without full rank
    wide = frechet_interval(np.hstack([x, dead]), np.hstack([y, dead]), prompt)
    assert wide == pytest.approx(frechet_interval(x, y, prompt))
    assert wide.lo < frechet_distance(x, y) < wide.hi
    assert frechet_interval(x, x, prompt) == pytest.approx((0, 0), abs=1e-9)
    with pytest.raises(ValueError, match=r"9 and 60 prompts, but 10 groups"):
        frechet_interval(x, y, prompt % 9, np.arange(60))
    with pytest.raises(ValueError, match="60 and 50 features for 60 and 60 prompts"):
        frechet_interval(x, y[:50], prompt)


def test_the_kernel_distance_is_unbiased_and_orders() -> None:
    rng = np.random.default_rng(0)
    same = [kernel_distance(rng.normal(size=(40, 5)), rng.normal(size=(40, 5)), subsets=2).value for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(200)
    x = rng.normal(size=(200, 5))
    shifts = [kernel_distance(x, rng.normal(size=(200, 5)) + shift).value for shift in (0.0, 0.3, 1.0)]
    assert shifts == sorted(shifts)
    with pytest.raises(ValueError, match="16 images on each side; got 10 and 200"):
        kernel_distance(x[:10], x)


def test_pairs_of_one_noise_do_not_lower_the_kernel_distance() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(120, 30))
    same = kernel_distance(base, base, is_paired=True)
    assert (same.value, same.lo, same.hi) == pytest.approx((0, 0, 0), abs=1e-12)
    assert kernel_distance(base, base).hi < 0  # as if an identical model were closer than an identical distribution
    near = [
        kernel_distance(x, x + 0.1 * rng.normal(size=x.shape), is_paired=True, subsets=2).value
        for x in (rng.normal(size=(60, 10)) for _ in range(100))
    ]
    assert abs(np.mean(near)) < 0.05 < np.mean([kernel_distance(base, base + 0.5, is_paired=True, subsets=2).value])
    x, y = base[:40], base[:40] + 0.3
    kernel = [[(a @ b / 30 + 1) ** 3 for b in (*x, *y)] for a in (*x, *y)]
    off = [(i, j) for i in range(40) for j in range(40) if i != j]
    mean = [np.mean([kernel[i + at][j + to] for i, j in off]) for at, to in ((0, 0), (40, 40), (0, 40))]
    assert kernel_distance(x, y, is_paired=True).value == pytest.approx(mean[0] + mean[1] - 2 * mean[2])
    with pytest.raises(ValueError, match="40 and 41 images are not pairs"):
        kernel_distance(x, base[:41], is_paired=True)


def whole_kernel_distance(first: np.ndarray, second: np.ndarray, *, subsets: int, size: int) -> tuple[float, ...]:
    """The same from kernel matrices that are held as a whole."""
    joined = np.concatenate([first, second])
    kernel = (joined @ joined.T / joined.shape[1] + 1) ** 3
    rng = np.random.default_rng(0)

    def estimate(one: np.ndarray, two: np.ndarray) -> float:
        own, other, cross = (kernel[np.ix_(*pair)] for pair in ((one, one), (two, two), (one, two)))
        m, n = len(one), len(two)
        within = (own.sum() - np.trace(own)) / (m * (m - 1)) + (other.sum() - np.trace(other)) / (n * (n - 1))
        return float(within - 2 * cross.mean())

    chosen = [[rng.choice(len(side), size, replace=False) for side in (first, second)] for _ in range(subsets)]
    values = [estimate(one, len(first) + two) for one, two in chosen]
    whole = estimate(np.arange(len(first)), len(first) + np.arange(len(second)))
    return (whole, *np.quantile(values, [0.025, 0.975]))


@pytest.mark.parametrize(("m", "n", "size"), [(40, 60, 20), (2300, 2100, 1000)])  # within a block, and in several
def test_the_kernel_distance_by_blocks_is_that_of_whole_matrices(m: int, n: int, size: int) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(m, 6)), rng.normal(size=(n, 6)) + 0.2
    found = kernel_distance(first, second, subsets=3)
    expected = whole_kernel_distance(first, second, subsets=3, size=size)
    assert (found.value, found.lo, found.hi) == pytest.approx(expected, rel=1e-11, abs=1e-12)
    assert (found.n, found.subset_size) == (n if m > n else m, size)


def test_the_kernel_distance_of_many_images_needs_little_memory() -> None:
    first, second = (np.random.default_rng(seed).normal(size=(6000, 4)) for seed in range(2))
    tracemalloc.start()
    kernel_distance(first, second, subsets=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # one whole matrix takes 288 MB
