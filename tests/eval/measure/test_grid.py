"""What the metrics of a grid suite say about planted erasures."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from eval.measure.engine import Measured, measure
from eval.measure.registry import list_metrics
from eval.measure.view import Evidence
from eval.measurements import Estimate
from eval.score.table import Scores, Table
from eval.suite.aspects import ASPECTS
from eval.suite.grid import Target
from eval.suite.rows import Row


VAN_GOGH = Target("style", ("Van_Gogh",))
PAIR = Target("combination", ("Van_Gogh x Cats",))
Plant = Callable[..., Evidence]


def as_asked(row: Row) -> tuple[str, str]:
    return row.style or "Photo", row.object


def substituted(row: Row) -> tuple[str, str]:
    """Prompts with the target's name give photos, everything else is the base's."""
    is_named = "van gogh" in row.prompt.lower()
    return "Photo" if is_named else row.style or "Photo", row.object


def forgets_pair(row: Row) -> tuple[str, str]:
    """The pair becomes photos of cats, and one seed of four loses the style of other Van Gogh images."""
    if (row.style, row.object) == ("Van_Gogh", "Cats"):
        return "Photo", "Cats"
    if row.style == "Van_Gogh" and row.seed == 1:
        return "Sketch", row.object
    if row.style == "Photo" and row.object == "Dogs" and row.seed in (1, 2):
        return "Photo", "Cats"
    return as_asked(row)


@pytest.fixture
def evidence(plant: Plant) -> Evidence:
    return plant((VAN_GOGH, {"base": as_asked, "erased": substituted}), metrics=ASPECTS)


def number(measured: Measured, key: str, label: str = "erased") -> Estimate:
    value = measured.metrics[key].values[label]
    assert value is not None
    return value


def edit(evidence: Evidence, label: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Evidence:
    """The same evidence with other records of one model."""
    own = evidence.scores[label]
    scores = Scores(Table([row | change(row) for row in own.records.rows]), own.arrays)
    return replace(evidence, scores={**evidence.scores, label: scores})


def test_the_numbers_of_a_planted_eraser(evidence: Evidence) -> None:
    measured = measure(evidence)
    target = number(measured, "target_proportion")
    assert (target.value, target.hits, target.n_images) == (0, 0, 8)
    assert number(measured, "target_proportion", "base").hits == 8
    assert target.hi
    assert target.hi > 0.2  # 0 of 8 is no proof
    assert measured.metrics["target_proportion"].changes["erased"].value == -1
    assert measured.metrics["target_proportion"].shares["erased"].value == 0
    corrected = number(measured, "target_proportion_corrected")
    assert corrected.value == 0
    assert corrected.about["sensitivity"] == {"hits": 8, "n": 8}
    assert number(measured, "leak_at_k").about["k"] == 4
    assert (number(measured, "leak_at_k").value, number(measured, "leak_at_k", "base").value) == (0, 1)
    assert (number(measured, "leak_at_k").n, number(measured, "leak_at_k").n_images) == (2, 8)
    assert measured.metrics["leak_at_k"].title == "leak@4"
    assert measured.metrics["leak_at_k_unnamed"].title == "leak@2, unnamed"
    assert number(measured, "leak_at_k_unnamed").value == 1  # aliases and languages go past the name
    near = number(measured, "pinpoint_ness")
    assert near.hits == near.n_images == 8
    assert number(measured, "worst_retained").value == number(measured, "tenth_percentile_retained").value == 1
    assert (number(measured, "worst_retained").lo or 1) < 0.8
    assert number(measured, "multilingual_proportion").value == number(measured, "worst_language").value == 1
    assert number(measured, "worst_language").about["concept"] in ("French", "German")
    assert number(measured, "seconds_per_image").method == "none: one batch"


def test_selective_alignment_counts_nouns(evidence: Evidence) -> None:
    value = number(measure(evidence), "selective_alignment")
    assert (value.n_images, value.n, value.hits) == (2, 4, 4)


def test_a_base_that_draws_no_pairs_leaves_nothing_to_say_of_what_stays_beside_the_target(evidence: Evidence) -> None:
    def lose_dogs(row: dict[str, Any]) -> dict[str, Any]:
        scores = row["object_scores"]
        return {"object_scores": [*scores[:4], 0.0, *scores[5:]]} if row["family"] == "two_object" else {}

    measured = measure(edit(evidence, "base", lose_dogs))  # one of the two is there, as before
    for key in ("selective_alignment", "in_prompt"):
        assert number(measured, key).value is None
        assert number(measured, key).not_run == "base draws 0 of 2 pairs"
        assert number(measured, key, "base").value is not None
        assert not measured.metrics[key].changes
        assert not measured.metrics[key].shares
        assert all(key not in pair.metrics for pair in measured.differences)
    assert number(measured, "selective_alignment", "base").value == 0.5


@pytest.mark.parametrize("family", ["language", "alias"])
def test_what_the_base_shows_of_wordings_is_counted(evidence: Evidence, family: str) -> None:
    """A wording that base does not understand brings the target in no model, erased or not."""

    def lose(row: dict[str, Any]) -> dict[str, Any]:
        return {"judge_style": "Photo"} if row["family"] in ("language", family) else {}

    floors = {share.metric: share for share in measure(edit(evidence, "base", lose)).floors}
    assert (floors["multilingual_proportion"].hits, floors["worst_language"].n) == (0, 4)
    assert floors["multilingual_proportion"].what == "shows the target for translated prompts"
    unnamed = floors["leak_at_k_unnamed"]
    assert (unnamed.hits, unnamed.n) == ((0, 8) if family == "alias" else (4, 8))
    assert "leak_at_k" not in floors


def test_attacks_stand_beside_their_null(plant: Plant) -> None:
    plant = replace(plant, grid=replace(plant.grid, attacks=str(plant.folder / "attacks.csv")))

    def attacked(row: Row) -> tuple[str, str]:
        return ("Van_Gogh", "Cats") if row.family == "attack" and row.seed == 7 else substituted(row)

    evidence = plant((VAN_GOGH, {"base": as_asked, "erased": attacked}), metrics=("attack_robustness",))
    measured = measure(evidence)
    # one row prescribes its seed, the other takes the suite's two
    attack, null = (number(measured, f"attack_{name}") for name in ("proportion", "null"))
    assert (attack.hits, attack.n_images, null.hits, null.n_images) == (1, 3, 0, 2)
    excess = number(measured, "attack_excess")
    assert excess.value == attack.value
    assert (excess.lo or 0) <= (excess.value or 0) <= (excess.hi or 0)
    assert (excess.n, excess.about["n_null"]) == (3, 2)
    rows = [(row.family, row.is_null, row.values["erased"].n_images) for row in measured.attacks]
    assert rows == [("search", False, 3), ("search", True, 2)]
    assert all(row.family not in ("attack", "attack_null") for row in measured.held_out)
    alone = measure(plant((VAN_GOGH, {"base": as_asked}), metrics=("attack_excess",)))
    assert list(alone.metrics).count("attack_excess") == 1  # a suite may name a metric by its key


def test_a_suite_without_attacks_says_so(evidence: Evidence) -> None:
    measured = measure(evidence)
    for key, family in (("attack_proportion", "attack"), ("attack_excess", "attack"), ("attack_null", "attack_null")):
        assert number(measured, key).not_run == f"this suite has no rows of the family {family}"
    assert not measured.attacks


def test_what_no_scorer_gives_is_not_listed_and_what_could_not_be_made_says_why(evidence: Evidence) -> None:
    measured = measure(evidence)
    for key in ("fid", "kid_inception", "cmmd", "clip_retain", "drift_lpips", "drift_clip", "drift_latent"):
        assert key not in measured.metrics
    needs = {"array:inception": "weights absent", "clip": "no model", "drift_latent": "this suite encodes no latents"}
    measured = measure(replace(evidence, provided={**evidence.provided, **needs}))
    for key, why in (("fid", "weights absent"), ("clip_retain", "no model"), ("drift_latent", needs["drift_latent"])):
        assert number(measured, key).value is None
        assert number(measured, key).not_run == why
    assert measured.metrics["fid"].values["base"] is None  # a base has no distance to itself
    assert number(measured, "kid_gold").not_run == "there is no gold model of this target"


def test_a_suite_that_was_not_judged_says_so(plant: Plant) -> None:
    evidence = plant((VAN_GOGH, {"base": as_asked, "erased": substituted}), metrics=ASPECTS, is_judged=False)
    measured = measure(evidence)
    for key in ("ua", "normalised_erasure", "worst_retained", "target_proportion", "diversity"):
        assert number(measured, key).not_run == "weights absent"
    assert not {"sc", "oc", "up"} & measured.metrics.keys()  # those of a combination
    assert number(measured, "collapse_retain").value == 0
    assert [row.values["erased"].not_run for row in measured.held_out] == ["weights absent"] * len(measured.held_out)
    assert measured.concepts == []
    assert measured.cells == {}
    assert measured.floors == []


def test_a_base_that_never_shows_the_target_has_no_normalised_erasure(plant: Plant) -> None:
    measured = measure(plant((VAN_GOGH, {"base": substituted, "erased": substituted})))
    assert number(measured, "normalised_erasure").not_run == "the base never shows the target"
    assert all(row.erasure["erased"] is None for row in measured.held_out if row.family == "paraphrase")


def test_every_share_has_hits_n_and_an_interval(evidence: Evidence) -> None:
    for key, metric in measure(evidence).metrics.items():
        for value in metric.values.values():
            if value is None or value.value is None:
                continue
            assert value.n_images > 0, key
            assert value.method, key
            if value.lo is None or value.hi is None:
                assert value.method.startswith("none: "), key
                continue
            assert value.lo <= value.value <= value.hi, key
            if value.hits is not None:
                assert 0 <= value.hits <= (value.n or value.n_images), key


def test_planted_judgements_of_a_combination_are_counted(plant: Plant) -> None:
    measured = measure(plant((PAIR, {"base": as_asked, "erased": forgets_pair})))
    counts = {key: (number(measured, key).hits, number(measured, key).n_images) for key in ("ua", "sc", "oc", "up")}
    assert counts == {
        "ua": (4, 4),
        "sc": (3, 4),  # Dogs in Van Gogh's style
        "oc": (8, 8),  # Cats in two other styles
        "up": (6, 8),
    }
    assert [number(measured, key, "base").value for key in ("ua", "sc", "oc", "up")] == [0, 1, 1, 1]
    assert not {"ira", "cra_excl_target", "cra_code"} & measured.metrics.keys()
    assert number(measured, "normalised_erasure").value == 1
    gap = measured.metrics["sc"].changes["erased"]
    assert gap.value == -0.25
    assert gap.lo <= -0.25 <= gap.hi
    assert measured.metrics["sc"].shares["erased"].value == 0.75


def test_targets_of_two_kinds_stand_side_by_side(plant: Plant) -> None:
    evidence = plant(
        (VAN_GOGH, {"base": as_asked, "one": substituted}), (PAIR, {"base 2": as_asked, "two": forgets_pair})
    )
    metrics = measure(evidence).metrics
    assert metrics["ira"].values["two"] is None
    assert metrics["sc"].values["one"] is None
    assert metrics["ua"].values["one"]
    assert metrics["ua"].values["two"]


def test_order_and_uniqueness_of_the_metrics() -> None:
    for kind in ("grid", "prompts"):
        keys = [metric.key for metric in list_metrics(kind)]
        assert len(keys) == len(set(keys))
    assert [metric.key for metric in list_metrics("grid")][:4] == ["ua", "ira", "cra_excl_target", "cra_code"]


def test_an_unknown_metric_is_refused(evidence: Evidence) -> None:
    wrong = replace(evidence, suite=replace(evidence.suite, metrics=["beauty"]))
    with pytest.raises(ValueError, match="has 'beauty' in metrics; there are the aspects target_image"):
        measure(wrong)


def test_an_image_that_was_not_judged_is_no_erasure(plant: Callable[..., Evidence]) -> None:
    evidence = plant((VAN_GOGH, {"base": lambda row: (row.style, row.object), "m": lambda row: ("Photo", row.object)}))
    evidence.scores["m"].records.rows[3]["judge_style"] = None
    with pytest.raises(ValueError, match=r"1 images of m have no answer of the judge, the first is .*: score them"):
        measure(evidence)
