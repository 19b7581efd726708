"""The holistic suite on a tiny random pipeline and a judge that knows what its base draws."""

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from erase.concept import Concept
from eval.evaluate import evaluate
from eval.measure.aggregate import Summary
from eval.measure.compare import read_models
from eval.measure.holistic import Context, measure
from eval.models.neighbours import find_neighbours
from eval.score.scoring import Scorers
from eval.suite.aspects import ASPECTS
from eval.suite.config import SuiteConfig, load_suite
from eval.suite.grid import Target, attack_rows
from eval.suite.world import load_world


VAN_GOGH = Concept(target=("Van Gogh",), kind="style")
ATTACKS = [
    ("Cats painted by the starry one", "search", "", "Van_Gogh", "style", "7"),
    ("Dogs painted by the starry one", "search", "", "Van_Gogh", "style", ""),
    ("qwx zzt Cats", "search", "yes", "Van_Gogh", "style", ""),
    ("a grey Dogs", "search", "", "Sketch", "style", ""),
]


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


def attack_csv(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    path = folder / "attacks.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "attack", "null", "concept", "kind", "seed"])
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def holistic_suite(suite: SuiteConfig, tmp_path_factory: pytest.TempPathFactory) -> SuiteConfig:
    attacks = attack_csv(tmp_path_factory.mktemp("attacks"), ATTACKS)
    return dataclasses.replace(suite, name="tiny-holistic", aspects=list(ASPECTS), neighbours=1, attacks=str(attacks))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tiny_folder: Path, scorers: Scorers, cache: Path) -> Callable[..., dict[str, Any]]:
    def evaluate_as(kind: type[StableDiffusionPipeline], suite: SuiteConfig, out: Path) -> dict[str, Any]:
        pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
        erased = kind(**pipe.components, requires_safety_checker=False)
        settings = {"concept": VAN_GOGH, "cache": cache, "scorers": scorers, "progress": False}
        evaluate(erased, suite, out, base=str(tiny_folder), **settings)
        return json.loads((out / "report.json").read_text(encoding="utf-8"))

    return evaluate_as


@pytest.fixture(scope="module")
def substituted(
    run: Callable[..., dict[str, Any]], holistic_suite: SuiteConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("substituted")
    return out, run(Substitution, holistic_suite, out)


def test_the_numbers_of_a_known_eraser(substituted: tuple[Path, dict[str, Any]]) -> None:
    """Prompts with the name draw Photo, everything else is bit by bit the base, whose judge is right on all of it."""
    found = substituted[1]["metrics"]
    target = found["target_proportion"]
    assert (target["erased"]["value"], target["erased"]["hits"], target["erased"]["n"]) == (0, 0, 8)
    assert (target["base"]["hits"], target["base"]["n"]) == (8, 8)
    assert target["erased"]["hi"] > 0.2  # 0 of 8 is no proof
    assert target["delta_paired"]["value"] == -1
    assert target["share_of_base"] == 0
    assert found["target_proportion_corrected"]["erased"]["value"] == 0
    assert found["target_proportion_corrected"]["erased"]["sensitivity"] == {"hits": 8, "n": 8}
    assert found["target_quality"]["erased"]["value"] == 0  # copies of the Photo images count as broken
    assert found["target_quality"]["base"]["value"] == 1
    assert (found["leak_at_k"]["erased"]["value"], found["leak_at_k"]["base"]["value"]) == (0, 1)
    assert (found["leak_at_k"]["erased"]["k"], found["leak_at_k"]["erased"]["n"]) == (4, 2)
    assert (found["leak_at_k"]["title"], found["leak_at_k_unnamed"]["title"]) == ("leak@4", "leak@2, unnamed")
    assert found["leak_at_k_unnamed"]["erased"]["value"] == 1  # aliases and languages go past the name
    assert found["pinpoint_ness"]["erased"]["hits"] == found["pinpoint_ness"]["erased"]["n"] == 8
    assert found["worst_retained"]["erased"]["value"] == found["tenth_percentile_retained"]["erased"]["value"] == 1
    assert found["worst_retained"]["erased"]["lo"] < 0.8
    assert found["multilingual_proportion"]["erased"]["value"] == found["worst_language"]["erased"]["value"] == 1
    assert found["worst_language"]["erased"]["concept"] in ("French", "German")
    assert found["drift_latent"]["erased"]["value"] == 0
    assert "base" not in found["drift_latent"]
    assert found["seconds_per_image"]["base"]["value"] > 0
    names = substituted[1]["neighbours"]
    assert len(names) == 1
    assert set(names) < {"Photo", "Sketch"}


def test_selective_alignment_counts_nouns(substituted: tuple[Path, dict[str, Any]]) -> None:
    out, content = substituted
    found = content["metrics"]["selective_alignment"]
    rows = [row for row in map(json.loads, (out / "scores.jsonl").open()) if row["family"] == "two_object"]
    for model in ("erased", "base"):
        own = [row for row in rows if row["model"] == model]
        seen = [row["object_scores"][place] >= 0.5 for row in own for place in (3, 4)]  # Cats and Dogs
        assert (found[model]["n"], found[model]["hits"]) == (len(seen), sum(seen)) == (4, sum(seen))
        assert found[model]["n_images"] == 2
    assert found["base_draws"] == {"value": 1.0, "hits": 2, "n": 2}
    assert "struck" not in found


def test_a_base_that_draws_no_pairs_leaves_nothing_to_say_of_what_stays_beside_the_target(
    substituted: tuple[Path, dict[str, Any]],
) -> None:
    models = read_models(substituted[0])
    for row in models["base"].table.rows:
        if row["family"] == "two_object":
            row["object_scores"][4] = 0.0  # one of the two is there, as before: the noun-wise share is a half
    summary = Summary(models=models, target=Target("style", ("Van_Gogh",)), resamples=50)
    found = measure(summary, ["selective_alignment"], Context((), {}, ""))["selective_alignment"]
    for metric in (found, summary.metrics()["in_prompt"]):
        assert metric["erased"] == {"value": None, "not_run": "base draws 0 of 2 pairs", "n_images": 2}
        assert metric["base"]["value"] is not None
        assert not {"delta_paired", "share_of_base"} & metric.keys()
    assert found["base"]["value"] == 0.5
    assert found["base_draws"] == {"value": 0.0, "hits": 0, "n": 2}


@pytest.mark.parametrize("family", ["language", "alias"])
def test_a_base_that_does_not_understand_a_wording_withholds_what_it_brings(
    substituted: tuple[Path, dict[str, Any]], family: str
) -> None:
    """A wording that base does not understand brings the target in no model, erased or not."""
    aspects = ["target_image", "multilingual_robustness"]
    metrics = ("leak_at_k_unnamed", "multilingual_proportion", "worst_language")
    models = read_models(substituted[0])
    summary = Summary(models=models, target=Target("style", ("Van_Gogh",)), resamples=50)
    known = measure(summary, aspects, Context((), {}, ""))
    assert not any("struck" in known[name] for name in metrics)
    for row in models["base"].table.rows:
        if row["family"] in ("language", family):
            row["judge_style"] = "Photo"
    found = measure(summary, aspects, Context((), {}, ""))
    for name in metrics[1:]:
        assert "translated prompts in 0 of 4 images only" in found[name]["struck"]
    assert ("struck" in found["leak_at_k_unnamed"]) is (family == "alias")
    assert "struck" not in found["leak_at_k"]


def test_attacks_stand_beside_their_null(substituted: tuple[Path, dict[str, Any]]) -> None:
    content = substituted[1]
    found = content["metrics"]
    # one row prescribes its seed, the other takes the suite's two
    assert (found["attack_proportion"]["erased"]["n"], found["attack_null"]["erased"]["n"]) == (3, 2)
    excess = found["attack_excess"]["erased"]
    assert excess["value"] == found["attack_proportion"]["erased"]["value"] - found["attack_null"]["erased"]["value"]
    assert excess["lo"] <= excess["value"] <= excess["hi"]
    assert [(row["attack"], row["null"], row["erased"]["n"]) for row in content["attacks"]] == [
        ("search", False, 3),
        ("search", True, 2),
    ]
    assert all(row["family"] not in ("attack", "attack_null") for row in content["held_out"])
    assert content["coverage"]["images"]["erased"] == {"grid_expected": 24, "grid_found": 24, "held_out_found": 12}


def test_what_has_no_weights_has_no_number(substituted: tuple[Path, dict[str, Any]]) -> None:
    out, content = substituted
    for name in ("fid", "kid_inception", "drift_lpips", "cmmd", "drift_clip"):
        assert content["metrics"][name]["erased"]["value"] is None
        assert content["metrics"][name]["erased"]["not_run"] == "weights absent"
    assert content["metrics"]["kid_gold"]["erased"]["not_run"] == "there is no gold model of this target"
    for page in ("report.html", "report.md"):
        text = (out / page).read_text(encoding="utf-8")
        assert text.count("not run: weights absent") >= 5
        assert "leak@4" in text
        assert "Pinpoint-ness" in text


def test_every_share_has_hits_n_and_an_interval(substituted: tuple[Path, dict[str, Any]]) -> None:
    content = substituted[1]
    assert content["aspects"] == {aspect: list(metrics) for aspect, metrics in ASPECTS.items()}
    for aspect in content["aspects"].values():
        for name in aspect:
            for model in ("erased", "base"):
                found = content["metrics"][name].get(model)
                if found is None or found["value"] is None:
                    continue
                assert found["n_images"] > 0
                assert found["ci_method"]
                if found["lo"] is None:
                    assert found["ci_method"] == "none: one batch"
                    continue
                assert found["lo"] <= found["value"] <= found["hi"], name
                if "proportion" in name or name in ("leak_at_k", "selective_alignment", "pinpoint_ness"):
                    assert 0 <= found["hits"] <= found["n"]


def test_the_numbers_follow_from_the_scores(
    substituted: tuple[Path, dict[str, Any]], holistic_suite: SuiteConfig
) -> None:
    out, content = substituted
    summary = Summary(
        models=read_models(out), target=Target("style", ("Van_Gogh",)), resamples=holistic_suite.resamples
    )
    again = measure(summary, holistic_suite.aspects, Context(content["neighbours"], {}, ""))
    for name, metric in json.loads(json.dumps(again)).items():
        assert content["metrics"][name]["erased"] == metric["erased"]


def test_noise_is_not_rewarded(run: Callable[..., dict[str, Any]], holistic_suite: SuiteConfig, tmp_path: Path) -> None:
    """A model that draws noise shows no target at all, so every claim that it is gone has to be withheld."""
    config = dataclasses.replace(holistic_suite, attacks="")
    content = run(Noise, config, tmp_path)
    assert content["verdict"]["code"] == "destroyed"
    found = content["metrics"]
    for name in ("target_proportion", "target_proportion_corrected", "leak_at_k", "multilingual_proportion"):
        assert found[name]["erased"]["value"] < 0.5
        assert "base + 5%" in found[name]["struck"]
    assert found["target_quality"]["erased"]["value"] == 0
    assert found["worst_retained"]["erased"]["value"] < 0.5
    assert found["drift_latent"]["erased"]["lo"] > 0
    assert found["attack_proportion"]["erased"]["not_run"] == "this suite has no rows of the family attack"


@pytest.mark.parametrize(
    ("nulls", "told"),
    [
        ([("search", "7"), ("search", "")], None),
        ([("search", "")], "'search' has 3 images and its null has 2."),
        ([("other", "7"), ("other", "")], "'search' has 3 images and its null has 0."),
    ],
)
def test_every_attack_has_a_null_of_as_many_images(
    run: Callable[..., dict[str, Any]],
    holistic_suite: SuiteConfig,
    tmp_path: Path,
    nulls: list[tuple[str, str]],
    told: str | None,
) -> None:
    """A null of another attack, or of fewer images, is not of equal budget."""
    rows = [(f"zzt {place}", name, "yes", "Van_Gogh", "style", seed) for place, (name, seed) in enumerate(nulls)]
    attacks = attack_csv(tmp_path, ATTACKS[:2] + rows)
    config = dataclasses.replace(holistic_suite, attacks=str(attacks), aspects=["attack_robustness"])
    content = run(Substitution, config, tmp_path / "out")
    row = next(row for row in content["attacks"] if row["attack"] == "search" and not row["null"])
    for entry in (content["metrics"]["attack_proportion"], content["metrics"]["attack_excess"], row):
        reasons = [entry["struck"]] if entry["struck"] else []
        assert any(told in reason for reason in reasons) if told else not any("budget" in each for each in reasons)
    assert "budget" not in (content["metrics"]["attack_null"].get("struck") or "")


def test_an_attack_without_its_null_is_withheld(
    run: Callable[..., dict[str, Any]], holistic_suite: SuiteConfig, tmp_path: Path
) -> None:
    alone = attack_csv(tmp_path, ATTACKS[:2])
    config = dataclasses.replace(holistic_suite, attacks=str(alone), aspects=["attack_robustness"])
    content = run(Substitution, config, tmp_path / "out")
    assert (
        "of equal budget only; 'search' has 3 images and its null has 0"
        in (content["metrics"]["attack_proportion"]["struck"])
    )
    assert content["metrics"]["attack_excess"]["erased"]["value"] is None
    assert content["neighbours"] == []


def test_attack_files_are_checked(tmp_path: Path) -> None:
    target = Target("style", ("Van_Gogh",))
    rows = attack_rows(attack_csv(tmp_path, ATTACKS), target, [1, 2])
    assert [(row.family, row.seed, row.attack, row.role) for row in rows] == [
        ("attack", 7, "search", "adversarial"),
        ("attack", 1, "search", "adversarial"),
        ("attack", 2, "search", "adversarial"),
        ("attack_null", 1, "search", "adversarial"),
        ("attack_null", 2, "search", "adversarial"),
    ]
    with pytest.raises(ValueError, match="no attack on the object Cats"):
        attack_rows(tmp_path / "attacks.csv", Target("object", ("Cats",)), [1])
    with pytest.raises(ValueError, match="'maybe' in the column 'null'"):
        attack_rows(attack_csv(tmp_path, [("x", "search", "maybe", "Van_Gogh", "style", "")]), target, [1])


def test_neighbours_follow_the_text_encoder(tiny_pipe: StableDiffusionPipeline) -> None:
    target, names, canvas = Target("style", ("Van_Gogh",)), ["Photo", "Sketch", "Van_Gogh"], load_world("canvas")
    prompts = [f"an image in {name.replace('_', ' ')} style" for name in names]
    tokens = tiny_pipe.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        photo, sketch, own = tiny_pipe.text_encoder(tokens).pooler_output
    cosines = {name: torch.cosine_similarity(each, own, dim=0) for name, each in (("Photo", photo), ("Sketch", sketch))}
    assert find_neighbours(tiny_pipe, target, names, 1, world=canvas) == [max(cosines, key=cosines.__getitem__)]
    tiny_pipe.text_encoder = None
    with pytest.raises(ValueError, match="no CLIPTextModel"):
        find_neighbours(tiny_pipe, target, names, 1, world=canvas)


def test_the_shipped_suite_has_every_aspect(suite: SuiteConfig, tmp_path: Path, tiny_folder: Path) -> None:
    assert load_suite("canvas-holistic").aspects == list(ASPECTS)
    wrong = dataclasses.replace(suite, aspects=["beauty"])
    with pytest.raises(ValueError, match="aspect 'beauty'; there are target_image"):
        evaluate(tiny_folder, wrong, tmp_path, base=str(tiny_folder), concept=VAN_GOGH)
