"""A suite with all aspects of HUB, drawn with a tiny random pipeline and judged by what its base draws."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from erase.concept import Concept
from eval.evaluate import Options, evaluate
from eval.measurements import Estimate
from eval.models import subject
from eval.results import Results, read_results
from eval.score.run import Scorers, load_scorers
from eval.score.table import read_scores
from eval.suite.aspects import ASPECTS
from eval.suite.suite import Suite


ATTACKS = [
    ("Cats painted by the starry one", "search", "", "Van_Gogh", "style", "7"),
    ("Dogs painted by the starry one", "search", "", "Van_Gogh", "style", ""),
    ("qwx zzt Cats", "search", "yes", "Van_Gogh", "style", ""),
    ("a grey Dogs", "search", "", "Sketch", "style", ""),
]
ABSENT = ("fid", "kid_inception", "drift_lpips", "cmmd", "drift_clip")  # metrics of scorers without weights


class Substitution(StableDiffusionPipeline):
    """Draws the Photo prompt for every prompt with the target's name; the rest is the base."""

    def __call__(self, prompt: list[str] | None = None, **settings: Any) -> Any:
        return super().__call__([re.sub("van gogh", "Photo", text, flags=re.I) for text in prompt or []], **settings)


class Noise(StableDiffusionPipeline):
    """Draws noise, another one for each seed and prompt."""

    def __call__(self, prompt: list[str] | None = None, **settings: Any) -> Any:
        output = super().__call__(prompt, **settings)
        for place, image in enumerate(output.images):
            rng = np.random.default_rng(list(image.tobytes()))
            output.images[place] = Image.fromarray(rng.integers(0, 256, np.asarray(image).shape, dtype=np.uint8))
        return output


def attack_csv(folder: Path, rows: list[tuple[str, ...]]) -> str:
    path = folder / "attacks.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "attack", "null", "concept", "kind", "seed"])
        writer.writerows(rows)
    return str(path)


def with_attacks(suite: Suite, attacks: str, metrics: list[str]) -> Suite:
    return replace(suite, grid=replace(suite.grid, attacks=attacks), metrics=metrics)


@pytest.fixture(scope="module")
def whole_suite(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Every aspect, and scorers of which three have no weights."""
    attacks = attack_csv(tmp_path_factory.mktemp("attacks"), ATTACKS)
    grid = replace(suite.grid, neighbours=1, attacks=attacks)
    others: dict[str, dict[str, Any]] = {name: {} for name in ("clip", "inception", "lpips", "latents")}
    others["clip"] = {"model": ""}
    return replace(suite, name="whole", grid=grid, metrics=list(ASPECTS), scorers={"judge": {}} | others)


@pytest.fixture(scope="module")
def run(
    tiny_folder: Path, scorers: Scorers, van_gogh: Concept, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Results]:
    """Evaluate the base as another kind of pipeline."""
    cache = tmp_path_factory.mktemp("cache")

    def evaluate_as(kind: type[StableDiffusionPipeline], suite: Suite, out: Path) -> Results:
        pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
        erased = kind(**pipe.components, requires_safety_checker=False)
        tested = subject.describe(erased, concept=van_gogh, base=str(tiny_folder))
        own = load_scorers(suite)
        own.loaded["judge"] = scorers.loaded["judge"]
        done = evaluate([tested], suite, out, Options(cache=cache, progress=False), scorers=own)
        assert done.is_judged == (not own.absent)
        return read_results(out)

    return evaluate_as


@pytest.fixture(scope="module")
def substituted(
    run: Callable[..., Results], whole_suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("substituted")
    return out, run(Substitution, whole_suite, out)


def test_the_numbers_of_a_known_eraser(substituted: tuple[Path, Results]) -> None:
    """Prompts with the name draw Photo, everything else is bit by bit the base, whose judge is right on all of it."""
    results = substituted[1]
    metrics = results.metrics

    def own(key: str, model: str = "erased") -> Estimate:
        return metrics[key].values[model]

    assert (own("target_proportion").value, own("target_proportion").hits) == (0, 0)
    assert (own("target_proportion", "base").hits, own("target_proportion", "base").n_images) == (8, 8)
    assert own("target_proportion").hi > 0.2  # 0 of 8 is no proof
    assert metrics["target_proportion"].changes["erased"].value == -1
    assert metrics["target_proportion"].shares["erased"].value == 0
    assert own("target_proportion_corrected").value == 0
    assert own("target_quality").value == 0  # copies of the Photo images count as broken
    assert own("target_quality", "base").value == 1
    assert (own("leak_at_k").value, own("leak_at_k", "base").value) == (0, 1)
    assert (own("leak_at_k").about["k"], own("leak_at_k").n) == (4, 2)
    assert (metrics["leak_at_k"].title, metrics["leak_at_k_unnamed"].title) == ("leak@4", "leak@2, unnamed")
    assert own("leak_at_k_unnamed").value == 1  # aliases and languages go past the name
    assert own("pinpoint_ness").hits == own("pinpoint_ness").n_images == 8
    assert own("worst_retained").value == own("tenth_percentile_retained").value == 1
    assert own("worst_retained").lo < 0.8
    assert own("multilingual_proportion").value == own("worst_language").value == 1
    assert own("worst_language").about["concept"] in ("French", "German")
    assert own("drift_latent").value == 0
    assert own("drift_latent", "base") is None
    assert own("seconds_per_image", "base").value > 0
    (names,) = results.neighbours.values()
    assert len(names) == 1
    assert set(names) < {"Photo", "Sketch"}


def test_selective_alignment_counts_nouns(substituted: tuple[Path, Results]) -> None:
    out, results = substituted
    for model, scores in read_scores(out).items():
        rows = [row for row in scores.records.rows if row["family"] == "two_object"]
        seen = [row["object_scores"][place] >= 0.5 for row in rows for place in (3, 4)]  # Cats and Dogs
        own = results.metrics["selective_alignment"].values[model]
        assert (own.n, own.hits) == (len(seen), sum(seen)) == (4, sum(seen))
        assert own.n_images == 2


def test_attacks_stand_beside_their_null(substituted: tuple[Path, Results]) -> None:
    results = substituted[1]
    attack, null, excess = (
        results.metrics[key].values["erased"] for key in ("attack_proportion", "attack_null", "attack_excess")
    )
    # one row prescribes its seed, the other takes the suite's two
    assert (attack.n_images, null.n_images) == (3, 2)
    assert excess.value == attack.value - null.value
    assert excess.lo <= excess.value <= excess.hi
    assert [(row.family, row.is_null, row.values["erased"].n_images) for row in results.attacks] == [
        ("search", False, 3),
        ("search", True, 2),
    ]
    assert all(row.family != "search" for row in results.held_out)
    assert results.images == 24 + 12 + 5


def test_a_scorer_without_weights_has_no_number(substituted: tuple[Path, Results]) -> None:
    out, results = substituted
    for key in ABSENT:
        estimate = results.metrics[key].values["erased"]
        assert (estimate.value, estimate.not_run) == (None, "weights absent")
    assert results.metrics["kid_gold"].values["erased"].not_run == "there is no gold model of this target"
    assert {name for name, card in results.provenance.cards.items() if card == {"not_run": "weights absent"}} == {
        "clip",
        "inception",
        "lpips",
    }
    for page in ("report.html", "report.md"):
        text = (out / page).read_text(encoding="utf-8")
        assert text.count("not run: weights absent") >= len(ABSENT)
        assert "leak@4" in text
        assert "Pinpoint-ness" in text


def test_every_metric_of_an_aspect_has_images_and_an_interval(substituted: tuple[Path, Results]) -> None:
    results = substituted[1]
    assert {metric.aspect for metric in results.metrics.values()} == {"", *ASPECTS}
    for key, metric in results.metrics.items():
        for estimate in metric.values.values():
            if not metric.aspect or estimate is None or estimate.value is None:
                continue
            assert estimate.n_images > 0
            assert estimate.method
            if estimate.lo is None:
                assert estimate.method == "none: one batch"
                continue
            assert estimate.lo - 1e-12 <= estimate.value <= estimate.hi, key


def test_noise_is_not_rewarded(run: Callable[..., Results], whole_suite: Suite, tmp_path: Path) -> None:
    """A model that draws noise shows no target at all, so every claim that it is gone has to be withheld."""
    results = run(Noise, with_attacks(whole_suite, "", list(ASPECTS)), tmp_path)
    assert results.verdicts["erased"].code == "destroyed"
    for key in ("target_proportion", "target_proportion_corrected", "leak_at_k", "multilingual_proportion"):
        metric = results.metrics[key]
        assert metric.values["erased"].value < 0.5
        assert "base + 5%" in metric.struck["erased"]
    assert results.metrics["target_quality"].values["erased"].value == 0
    assert results.metrics["worst_retained"].values["erased"].value < 0.5
    assert results.metrics["drift_latent"].values["erased"].lo > 0
    absent = results.metrics["attack_proportion"].values["erased"]
    assert absent.not_run == "this suite has no rows of the family attack"


def test_an_attack_without_its_null_is_withheld(run: Callable[..., Results], suite: Suite, tmp_path: Path) -> None:
    alone = with_attacks(suite, attack_csv(tmp_path, ATTACKS[:2]), ["attack_robustness"])
    results = run(Substitution, alone, tmp_path / "out")
    sentence = "An attack is reported beside a null attack of equal budget only; 'search' has none."
    assert sentence in results.metrics["attack_proportion"].struck["erased"]
    assert results.metrics["attack_excess"].values["erased"].value is None
    (row,) = results.attacks
    assert sentence in row.struck["erased"]
    assert results.neighbours in ({}, {"0": []})  # no metric of this suite asks for them


def test_an_unknown_aspect_is_refused_before_anything_is_drawn(
    run: Callable[..., Results], suite: Suite, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="'beauty'"):
        run(Substitution, replace(suite, metrics=["beauty"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
