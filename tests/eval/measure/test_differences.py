"""Differences between planted models, whose numbers are known beforehand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from eval.formulas.intervals import cluster_bootstrap, difference_interval, wider
from eval.measure.bootstrap import resample, resampled_means
from eval.measure.differences import differences, measure_changes
from eval.measure.engine import Measured, measure
from eval.measure.view import Evidence, Sample
from eval.measurements import Difference
from eval.results import ModelInfo
from eval.suite.grid import Target
from eval.suite.rows import Row


VAN_GOGH = Target("style", ("Van_Gogh",))
CATS = Target("object", ("Cats",))
Plant = Callable[..., Evidence]


def as_asked(row: Row) -> tuple[str, str]:
    return row.style, row.object


def erased(row: Row) -> tuple[str, str]:
    """Nothing of the target is left, and nothing else is hurt."""
    return "Photo" if row.style == "Van_Gogh" else row.style, row.object


def half_erased(row: Row) -> tuple[str, str]:
    """The target survives at odd seeds, and dogs become cats at seed 1."""
    style = "Photo" if row.style == "Van_Gogh" and row.seed % 2 == 0 else row.style
    return style, "Cats" if row.object == "Dogs" and row.seed == 1 else row.object


def without_cats(row: Row) -> tuple[str, str]:
    return row.style, row.object.replace("Cats", "Dogs")


def difference(a: Sample, b: Sample, *, paired: bool, resamples: int) -> Difference | None:
    """The difference of two models of one group, or of two groups."""
    models = [ModelInfo(label="a", role="erased"), ModelInfo(label="b", role="erased", group=0 if paired else 1)]
    resampled = resample({"a": a, "b": b}, resamples=resamples)
    return differences(resampled, models, measure_changes(resampled)).get(("a", "b"))


@pytest.fixture
def evidence(plant: Plant) -> Evidence:
    return plant(
        (VAN_GOGH, {"base": as_asked, "gold": erased, "half": half_erased, "whole": erased}),
        (CATS, {"base (Cats)": as_asked, "cats": without_cats}),
    )


def by_pair(measured: Measured) -> dict[tuple[str, str], dict[str, Difference]]:
    return {(pair.a, pair.b): pair.metrics for pair in measured.differences}


def test_every_pair_has_its_difference(evidence: Evidence) -> None:
    measured = measure(evidence)
    pairs = by_pair(measured)
    assert len(pairs) == 6 * 5 / 2 - 1  # all but the two bases
    assert {(pair.a, pair.b): pair.paired for pair in measured.differences}["half", "whole"]
    ours = pairs["half", "whole"]
    # of 8 images of the target 4 are left; of 16 others 2 dogs are lost, none of whose styles is
    assert ours["ua"].value == 0.5
    assert ours["normalised_erasure"].value == 0.5
    assert ours["ira"].value == 0
    assert ours["cra_excl_target"].value == pytest.approx(2 / 16)
    assert "drift" in ours  # both have a distance to base
    assert "drift" not in pairs["base", "half"]
    assert pairs["gold", "whole"]["ua"].value == 0
    for pair in pairs.values():
        for gap in pair.values():
            assert gap.lo <= gap.value <= gap.hi
            assert gap.n_images > 0


def test_models_of_different_targets_are_compared_by_what_each_changed(evidence: Evidence) -> None:
    measured = measure(evidence)
    pair = next(each for each in measured.differences if (each.a, each.b) == ("half", "cats"))
    assert not pair.paired
    assert pair.metrics["ua"].value == pytest.approx(1.0 - 0.5)
    assert not pair.metrics["ua"].paired
    assert pair.metrics["cra_excl_target"].value == pytest.approx(2 / 16)
    assert pair.metrics["ua"].n_images == 8 + 12
    assert "drift" not in pair.metrics  # there is no base that it could be measured against


def test_a_change_is_the_difference_to_the_own_base(evidence: Evidence) -> None:
    measured = measure(evidence)
    pairs = by_pair(measured)
    for key, metric in measured.metrics.items():
        for label, change in metric.changes.items():
            base = "base (Cats)" if label == "cats" else "base"
            assert change == pairs[base, label][key]
    assert measured.metrics["ua"].changes["half"].value == 0.5
    assert not measured.metrics["drift"].changes


def test_a_difference_turns_its_sign_with_its_sides() -> None:
    generator = np.random.default_rng(0)
    base, clusters = np.ones(60, bool), np.arange(60) // 3
    a, b = (Sample(values=generator.random(60) < p, base=base, clusters=clusters) for p in (0.2, 0.8))
    one, other = (difference(*sides, paired=True, resamples=500) for sides in ((a, b), (b, a)))
    assert one
    assert other
    assert one.value == pytest.approx(-other.value)
    assert (one.lo, one.hi) == (pytest.approx(-other.hi, abs=0.02), pytest.approx(-other.lo, abs=0.02))
    assert one.lo > 0


def test_a_difference_without_variation_has_a_width() -> None:
    """A bootstrap of eight equal rows says [1, 1], which no eight rows can know."""
    ones, clusters = np.ones(8, bool), np.arange(8)
    yes, no = (Sample(values=values, base=ones, clusters=clusters) for values in (ones, ~ones))
    gap = difference(no, yes, paired=True, resamples=200)
    assert gap
    assert (gap.value, gap.hi) == (1, 1)
    assert gap.lo < 0.7
    unpaired = difference(yes, no, paired=False, resamples=200)
    assert unpaired
    assert unpaired.value == -1
    assert unpaired.hi > -0.7


def test_a_type_and_no_value_decides_what_is_counted() -> None:
    """Floats that happen to be 0 everywhere are no counts."""
    zeros, clusters = np.zeros(8), np.arange(8)
    sample = Sample(values=zeros, base=zeros, clusters=clusters)
    gap = difference(sample, sample, paired=True, resamples=50)
    assert gap
    assert (gap.lo, gap.hi) == (0, 0)


def test_differences_are_those_of_the_plain_formulas() -> None:
    """One draw for all models gives what a bootstrap of each pair gives."""
    generator = np.random.default_rng(1)
    clusters = generator.permutation(np.repeat(np.arange(17), 3))
    values = [generator.random(51) < share for share in (0.3, 0.6)]
    a, b = (Sample(values=each, base=values[0], clusters=clusters) for each in values)
    gap = difference(a, b, paired=True, resamples=300)
    plain = difference_interval(values[1], values[0], clusters, resamples=300)
    assert gap
    assert (gap.lo, gap.hi) == pytest.approx(plain, abs=1e-12)
    means = resampled_means(values, clusters, resamples=300)
    drawn = cluster_bootstrap([values[0].astype(float)], clusters, resamples=300)
    assert wider(drawn) == pytest.approx(tuple(np.quantile(means[0], [0.025, 0.975])), abs=1e-12)


def test_a_metric_without_values_of_the_base_is_not_compared_between_targets() -> None:
    sample = Sample(values=np.arange(4.0), base=None, clusters=np.arange(4))
    assert difference(sample, sample, paired=False, resamples=20) is None
    assert difference(sample, sample, paired=True, resamples=20) is not None


def test_retained_concepts_lose_what_was_planted(evidence: Evidence) -> None:
    rows = {(row.group, row.axis, row.concept): row for row in measure(evidence).concepts}
    dogs, cats = (rows[0, "object", name].changes["half"] for name in ("Dogs", "Cats"))
    assert dogs.value == pytest.approx(-1 / 4)  # seed 1 of four
    assert cats.value == 0
    assert cats.lo < 0 < cats.hi
    assert (0, "style", "Van_Gogh") not in rows  # it is not retained
    assert (1, "style", "Van_Gogh") in rows


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latent_hash", "drawn elsewhere", "whole and of base do not start from the same initial latents"),
        ("key", "Photo_Birds_seed1", "whole and of base differ in Photo_Birds_seed1"),
    ],
)
def test_images_that_are_no_pairs_are_refused(evidence: Evidence, column: str, value: str, message: str) -> None:
    scores = dict(evidence.scores)
    first, *others = scores["whole"].records.rows
    table = type(scores["whole"].records)([first | {column: value}, *others])
    scores["whole"] = replace(scores["whole"], records=table)
    with pytest.raises(ValueError, match=message):
        measure(replace(evidence, scores=scores))
