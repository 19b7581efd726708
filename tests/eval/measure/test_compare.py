"""Differences between planted models, whose numbers are known beforehand."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.evaluate import combine
from eval.measure.compare import Evaluation, compare
from eval.measure.difference import Sample, difference
from eval.report import page as report
from eval.suite.grid import Target
from eval.suite.rows import Row


VAN_GOGH = Target("style", ("Van_Gogh",))
CATS = Target("object", ("Cats",))


def as_asked(row: Row) -> tuple[str, str, str]:
    return row.style, row.object, ""


def erased(row: Row) -> tuple[str, str, str]:
    """Nothing of the target is left, and nothing else is hurt."""
    return "Photo" if row.style == "Van_Gogh" else row.style, row.object, ""


def half_erased(row: Row) -> tuple[str, str, str]:
    """The target survives at odd seeds, and dogs become cats at seed 1."""
    style = "Photo" if row.style == "Van_Gogh" and row.seed % 2 == 0 else row.style
    return style, "Cats" if row.object == "Dogs" and row.seed == 1 else row.object, ""


def without_cats(row: Row) -> tuple[str, str, str]:
    return row.style, row.object.replace("Cats", "Dogs"), ""


@pytest.fixture
def models(planted: Callable, tmp_path: Path) -> list[Evaluation]:
    return [
        planted(tmp_path / "half", VAN_GOGH, {"erased": half_erased, "base": as_asked}, "half"),
        planted(tmp_path / "whole", VAN_GOGH, {"erased": erased, "base": as_asked, "gold": erased}, "whole"),
        planted(tmp_path / "cats", CATS, {"erased": without_cats, "base": as_asked}, "cats"),
    ]


def test_columns_are_base_gold_and_the_models_of_each_target(models: list[Evaluation]) -> None:
    columns = compare(models)["columns"]
    assert [column["label"] for column in columns] == [
        "base (Van Gogh)",
        "gold (Van Gogh)",
        "half",
        "whole",
        "base (Cats)",
        "cats",
    ]
    assert [column["group"] for column in columns] == [0, 0, 0, 0, 1, 1]
    assert len({column["id"] for column in columns}) == len(columns)
    assert [column["label"] for column in compare(models[1:2])["columns"]] == ["base", "gold", "whole"]


def test_every_pair_has_its_difference(models: list[Evaluation]) -> None:
    compared = compare(models)
    label = {column["id"]: column["label"] for column in compared["columns"]}
    pairs = {(label[pair["a"]], label[pair["b"]]): pair for pair in compared["differences"]}
    assert len(pairs) == 6 * 5 / 2 - 1  # all but the two bases
    ours = pairs["half", "whole"]
    assert ours["paired"]
    # of 8 images of the target 4 are left; of 16 others 2 dogs are lost, none of whose styles is
    assert ours["metrics"]["ua"]["value"] == 0.5
    assert ours["metrics"]["normalised_erasure"]["value"] == pytest.approx(0.5, abs=0.1)  # with the paraphrase
    assert ours["metrics"]["ira"]["value"] == 0
    assert ours["metrics"]["cra_excl_target"]["value"] == pytest.approx(2 / 16)
    assert "drift" in ours["metrics"]  # both have a distance to base
    assert "drift" not in pairs["base (Van Gogh)", "half"]["metrics"]
    assert pairs["gold (Van Gogh)", "whole"]["metrics"]["ua"]["value"] == 0
    for pair in pairs.values():
        for gap in pair["metrics"].values():
            assert gap["lo"] <= gap["value"] <= gap["hi"]
            assert gap["n_images"] > 0


def test_models_of_different_targets_are_compared_by_what_each_changed(models: list[Evaluation]) -> None:
    compared = compare(models)
    label = {column["id"]: column["label"] for column in compared["columns"]}
    pair = next(each for each in compared["differences"] if (label[each["a"]], label[each["b"]]) == ("half", "cats"))
    assert not pair["paired"]
    assert pair["metrics"]["ua"]["value"] == pytest.approx(1.0 - 0.5)
    assert pair["metrics"]["cra_excl_target"]["value"] == pytest.approx(2 / 16)
    assert pair["metrics"]["ua"]["n_images"] == 8 + 12
    assert "drift" not in pair["metrics"]  # there is no base that it could be measured against


def test_the_metrics_of_the_aspects_are_paired_too(planted: Callable, tmp_path: Path) -> None:
    aspects = ["target_image", "selective_alignment", "general_image"]
    plant = type(planted)(replace(planted.suite, aspects=aspects))
    found = plant(tmp_path, VAN_GOGH, {"erased": half_erased, "base": as_asked})
    (pair,) = compare([found])["differences"]
    for metric in ("target_proportion", "selective_alignment", "target_quality"):
        recorded = found.content["metrics"][metric]["delta_paired"]  # the report's own, of this model against its base
        assert pair["metrics"][metric]["value"] == recorded["value"]
        assert pair["metrics"][metric]["lo"] == pytest.approx(recorded["lo"])
    assert pair["metrics"]["target_proportion"]["value"] == -0.5
    assert "drift_latent" not in pair["metrics"]  # not run


def test_pairs_that_base_does_not_draw_are_not_compared(planted: Callable, tmp_path: Path) -> None:
    def one_of_two(row: Row) -> tuple[str, str, str]:
        return row.style, row.object.partition("+")[0], ""

    aspects = ["selective_alignment"]
    plant = type(planted)(replace(planted.suite, aspects=aspects))
    found = plant(tmp_path / "one", VAN_GOGH, {"erased": half_erased, "base": one_of_two})
    (pair,) = compare([found])["differences"]
    assert not {"in_prompt", "selective_alignment"} & pair["metrics"].keys()
    report.render(found.folder)
    told = (found.folder / "report.md").read_text(encoding="utf-8")
    for title in ("In-prompt retention", "Selective alignment"):
        assert re.search(rf"^\| {title} \| \d.* \| not run: base draws 0 of 2 pairs \|", told, re.M), told
    assert (found.folder / "report.html").read_text(encoding="utf-8").count("not run: base draws 0 of 2 pairs") == 2
    known = plant(tmp_path / "known", VAN_GOGH, {"erased": half_erased, "base": as_asked})
    (pair,) = compare([known])["differences"]
    assert {"in_prompt", "selective_alignment"} <= pair["metrics"].keys()


def test_a_difference_turns_its_sign_with_its_sides() -> None:
    generator = np.random.default_rng(0)
    base, clusters = np.ones(60), np.arange(60) // 3
    a, b = (Sample((generator.random(60) < p).astype(float), base, clusters) for p in (0.2, 0.8))
    one, other = (difference(*sides, paired=True, resamples=500) for sides in ((a, b), (b, a)))
    assert one["value"] == pytest.approx(-other["value"])
    assert (one["lo"], one["hi"]) == (pytest.approx(-other["hi"], abs=0.02), pytest.approx(-other["lo"], abs=0.02))
    assert one["lo"] > 0


def test_a_difference_without_variation_has_a_width() -> None:
    """A bootstrap of eight equal rows says [1, 1], which no eight rows can know."""
    ones, clusters = np.ones(8), np.arange(8)
    gap = difference(Sample(0 * ones, ones, clusters), Sample(ones, ones, clusters), paired=True, resamples=200)
    assert (gap["value"], gap["hi"]) == (1, 1)
    assert gap["lo"] < 0.7
    unpaired = difference(Sample(ones, ones, clusters), Sample(0 * ones, ones, clusters), paired=False, resamples=200)
    assert unpaired["value"] == -1
    assert unpaired["hi"] > -0.7


def test_retained_concepts_lose_what_was_planted(models: list[Evaluation]) -> None:
    compared = compare(models[:1])
    rows = {(row["axis"], row["concept"]): row for row in compared["concepts"]}
    assert rows["object", "Dogs"]["value"] == pytest.approx(-1 / 4)  # seed 1 of four
    assert rows["object", "Cats"]["value"] == 0
    assert rows["object", "Cats"]["lo"] < 0 < rows["object", "Cats"]["hi"]
    assert ("style", "Van_Gogh") not in rows  # it is not retained


def test_evaluations_of_different_contents_of_a_prompt_file_are_refused(planted: Callable, tmp_path: Path) -> None:
    """The file has one name and other prompts, which the models' own rows need not show: those are of other targets."""
    prompts = tmp_path / "held_out.csv"
    prompts.write_bytes(Path(planted.suite.held_out).read_bytes())
    plant = type(planted)(replace(planted.suite, held_out=str(prompts)))
    for name in ("vg", "again", "cats"):
        if name == "cats":
            prompts.write_text(prompts.read_text(encoding="utf-8").replace("kitty", "tomcat"), encoding="utf-8")
        target = CATS if name == "cats" else VAN_GOGH
        plant(tmp_path / name, target, {"erased": as_asked, "base": as_asked}, name)
    combine({name: tmp_path / name for name in ("vg", "again")}, tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"cats and vg were evaluated with different contents of the prompt file .*csv"
    ):
        combine({name: tmp_path / name for name in ("vg", "cats")}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_compared_is_refused(models: list[Evaluation], planted: Callable, tmp_path: Path) -> None:
    models[1].content["suite"]["hash"] = "another"
    with pytest.raises(ValueError, match="half and whole were evaluated with different suites or seeds"):
        compare(models[:2])
    other = planted(tmp_path / "other", VAN_GOGH, {"erased": erased, "base": as_asked}, "other")
    for each in other.models.values():
        each.table.rows[0]["latent_hash"] = "drawn elsewhere"
    with pytest.raises(ValueError, match="not of the same prompts and initial latents"):
        compare([models[0], other])
