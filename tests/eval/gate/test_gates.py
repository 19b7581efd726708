"""What must be refused or withheld: an unreliable judge, a gap in the images, too few of them, absent weights."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from erase.canvas.judge import Judge
from erase.canvas.world import OBJECT_NAMES
from erase.concept import Concept
from eval.content import Made, build_report
from eval.evaluate import evaluate
from eval.formulas.cmmd import cmmd
from eval.formulas.kid import kernel_distance
from eval.measure.aggregate import Model, Summary
from eval.measure.compare import read_models
from eval.measure.holistic import Context, measure
from eval.models.fingerprint import fingerprint
from eval.models.subject import Subject
from eval.report import page as report
from eval.score.scorers import classifier
from eval.score.scoring import Scorers
from eval.score.table import Table
from eval.suite.config import SuiteConfig
from eval.suite.grid import Target


VAN_GOGH = Concept(target=("Van Gogh",), kind="style")
TARGET = Target("style", ("Van_Gogh",))


@pytest.fixture(scope="module")
def evaluated(
    tiny_folder: Path, suite: SuiteConfig, scorers: Scorers, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    out = tmp_path_factory.mktemp("evaluated")
    evaluate(pipe, suite, out, base=str(tiny_folder), concept=VAN_GOGH, scorers=scorers, progress=False)
    return out


@pytest.mark.parametrize(
    "card", [None, {"n": 1200, "style_sensitivity": {"Van_Gogh": 1.0}}]
)  # a card may be of other weights
def test_a_judge_with_random_weights_measures_nothing(
    tiny_folder: Path, suite: SuiteConfig, scorers: Scorers, tmp_path: Path, card: dict | None
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Judge().eval()
    if card:
        vars(judge)["card"] = card
    guessing = dataclasses.replace(
        scorers,
        classifier=classifier.load(classifier.Config(judge=judge)),
    )
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    config = dataclasses.replace(suite, aspects=["target_image", "multilingual_robustness"])
    evaluate(pipe, config, tmp_path, base=str(tiny_folder), concept=VAN_GOGH, scorers=guessing, progress=False)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["verdict"]["code"] == "not measurable"
    assert not all(gate["passed"] for gate in content["gates"] if gate["name"] in ("judge", "base"))
    for name in ("ua", "normalised_erasure", "target_proportion", "leak_at_k", "worst_language"):
        assert re.search("The judge (recognises|sees) the target in", content["metrics"][name]["struck"])


def test_a_deleted_image_stops_the_report(evaluated: Path) -> None:
    image = evaluated / "erased" / "images" / "Van_Gogh_Cats_seed1.png"
    content, page = image.read_bytes(), (evaluated / "report.html").read_bytes()
    image.unlink()
    try:
        with pytest.raises(FileNotFoundError, match=r"Van_Gogh_Cats_seed1.png"):
            report.render(evaluated)
    finally:
        image.write_bytes(content)
    assert (evaluated / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("Van_Gogh_Cats_seed1", "cell Van_Gogh / Cats has 3 images instead of 4"),
        ("alias_", "images of erased and of base differ in alias_"),
    ],
)
def test_scores_with_a_gap_give_no_number(
    evaluated: Path, suite: SuiteConfig, tiny_pipe: StableDiffusionPipeline, gone: str, sentence: str
) -> None:
    models = read_models(evaluated)
    own = models["erased"]
    kept = own.table.where(lambda row: not row["key"].startswith(gone))
    models["erased"] = dataclasses.replace(own, table=kept)
    made = Made(dict.fromkeys(("erased", "base"), fingerprint(tiny_pipe)), {})
    tested = Subject(tiny_pipe, VAN_GOGH, tiny_pipe, {})
    with pytest.raises(ValueError, match=sentence):
        build_report(suite, tested, TARGET, models, made, described={}, judge_card={})
    models["erased"] = own
    content = build_report(suite, tested, TARGET, models, made, described={}, judge_card={})
    assert content["metrics"]["ua"]["erased"]["n_images"] == 8


def scores(seed: int, shift: float, *, shows: float, inception: bool = True) -> Model:
    """A model of 2 styles x 4 objects x 8 seeds that draws the target in a share of its images and all else right."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for style in ("Van_Gogh", "Photo"):
        for obj in OBJECT_NAMES[:4]:
            for number in range(8):
                target = style == "Van_Gogh"
                rows.append(
                    {
                        "key": f"{style}_{obj}_seed{number}",
                        "prompt_id": f"{style}_{obj}",
                        "family": "template",
                        "role": "target" if target else "adjacent",
                        "style": style,
                        "object": obj,
                        "judge_style": style if not target or rng.random() < shows else "Photo",
                        "judge_object": obj,
                        "object_scores": [float(obj == name) for name in OBJECT_NAMES],
                        "broken": "",
                        "drift_latent": None,
                        "drift_clip": None,
                        "drift_lpips": None,
                        "wall_s": 0.1,
                        "attack": "",
                        "language": "",
                        "feature_ref": len(rows),
                    }
                )
    sides = {name: rng.normal(size=(64, 5)) + shift for name in ("features", "clip", "inception")}
    return Model(table=Table(rows), **sides if inception else {key: sides[key] for key in ("features", "clip")})


def test_distances_follow_their_metrics_and_few_images_get_no_fid() -> None:
    models = {"erased": scores(0, 0.3, shows=0.2), "base": scores(1, 0, shows=1), "gold": scores(2, 0.1, shows=0)}
    summary = Summary(models=models, target=TARGET, resamples=100)
    found = measure(summary, ["target_image", "general_image"], Context((), {}, "canvas"))
    target, retain = slice(0, 32), slice(32, 64)
    features_ = {name: model.features for name, model in models.items()}
    expected = kernel_distance(features_["erased"][target], features_["gold"][target], is_paired=True).value
    assert found["kid_gold"]["erased"]["value"] == pytest.approx(expected)
    assert "gold" not in found["kid_gold"]
    cells = np.repeat(np.arange(4), 8)
    close = cmmd(models["erased"].clip[retain], models["base"].clip[retain], cells)
    assert found["cmmd"]["erased"]["value"] == pytest.approx(close.value)
    assert found["cmmd"]["title"] == "CMMD (canvas CLIP)"
    fid = found["fid"]["erased"]
    assert fid["value"] is None
    assert fid["not_run"].startswith("FID of 32 images")
    assert "read KID" in fid["not_run"]
    pooled = (models[name].inception[retain] for name in ("erased", "base"))
    assert found["kid_inception"]["erased"]["value"] == pytest.approx(kernel_distance(*pooled, is_paired=True).value)
    share = found["target_proportion"]
    hits = sum(row["judge_style"] == "Van_Gogh" for row in models["erased"].table.rows)
    assert share["delta_gold"]["value"] == pytest.approx(hits / 32)
    assert share["delta_gold"]["lo"] > 0
    assert share["share_of_base"] == pytest.approx(hits / 32)
    assert share["share_of_base_interval"]["lo"] < hits / 32 < share["share_of_base_interval"]["hi"]


def test_a_corrected_share_needs_a_judge_above_chance() -> None:
    models = {"erased": scores(0, 0, shows=0.5), "base": scores(1, 0, shows=0)}
    summary = Summary(models=models, target=TARGET, resamples=100)
    found = measure(summary, ["target_image"], Context((), {}, ""))["target_proportion_corrected"]["erased"]
    assert found["value"] is None
    assert "no better than chance" in found["not_run"]
    card = {"n": 100, "style_sensitivity": {"Van_Gogh": 0.9, "Photo": 1.0}}
    found = measure(summary, ["target_image"], Context((), card, ""))["target_proportion_corrected"]["erased"]
    assert found["sensitivity"] == {"hits": 45, "n": 50}
    assert found["value"] == pytest.approx(found["hits"] / found["n"] / 0.9)
