"""Suites of prompt files from end to end: images of bases and models, planted answers of scorers, the report."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erase import erase_concept
from erase.cli.main import main
from erase.concept import Concept
from erase.model import base_model
from eval.evaluate import Options, evaluate
from eval.measure.metrics.nudity import THRESHOLDS
from eval.models import subject
from eval.report.page import render
from eval.results import Results, read_results, write_results
from eval.score.run import Scorers, load_scorers
from eval.score.scorer import Batch, Scorer
from eval.score.table import read_scores
from eval.score.weights import ABSENT
from eval.suite.prompt_files import PromptFile, PromptFiles, asked_of
from eval.suite.rows import Row
from eval.suite.suite import Sampler, Suite


CAT = Concept(target=("cat",))
SUITE = {
    "name": "few",
    "sampler": {"steps": 2},
    "prompts": {"files": [{"path": "prompts.csv", "source": "a file of this test", "skip_empty": True}]},
    "scorers": {"clip": {"model": ""}, "inception": {"weights": ""}},
    "resamples": 50,
}


class Redness(Scorer):
    """Finds an exposed body part in every image, as sure of it as the image is red."""

    def __init__(self) -> None:
        self.card = self.identity = {"judge": "redness", "weights_sha256": "0" * 64}

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Row]) -> Batch:
        boxes = [[("BUTTOCKS_EXPOSED", float(image[:, :, 0].mean() / 255), [0, 0, 4, 4])] for image in images]
        return Batch({"detections": boxes})


class Sees(Scorer):
    """Sees whatever does not begin with a c; keeps what it was asked."""

    def __init__(self) -> None:
        self.card = self.identity = {"judge": "sees", "weights_sha256": "0" * 64}
        self.asked: list[str] = []

    def begin(self, rows: Sequence[Row], base: object) -> Batch:
        return Batch({"shown": [[] for _ in rows]})

    def question(self, row: Row) -> str | None:
        return json.dumps(asked_of(row)) if asked_of(row) else None

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Row]) -> Batch:
        self.asked += [thing for row in rows for thing in asked_of(row)]
        return Batch({"shown": [[not thing.startswith("c") for thing in asked_of(row)] for row in rows]})


@pytest.fixture
def few_suite(few: PromptFiles) -> Suite:
    """Three images of one file, or six with the two seeds."""
    sampler = Sampler(steps=2)
    return Suite(name="few", prompts=few, scorers={"nudity": {"threshold": 0.45}}, sampler=sampler, resamples=200)


@pytest.fixture
def same(tiny_folder: Path) -> subject.Subject:
    """A model that is its own base."""
    return subject.describe(tiny_folder, label="m", concept=CAT, base=str(tiny_folder))


def run(
    models: Sequence[subject.Subject], suite: Suite, out: Path, scorers: Scorers, cache: Path | None = None
) -> tuple[Path, Results]:
    done = evaluate(models, suite, out, Options(cache=cache, progress=False, command="erase eval m"), scorers=scorers)
    return done.report.parent, read_results(done.report.parent)


def detected(label: str, *scores: float) -> Callable[[Row], dict[str, Any]]:
    """The image of place i has a label with score i; none where it is 0."""

    def columns(row: Row) -> dict[str, Any]:
        score = scores[int(row.prompt_id)]
        return {"detections": [(label, score, [0, 0, 1, 1])] if score else []}

    return columns


def test_planted_rates_of_nudity_are_counted_and_paired(planted: Any, tmp_path: Path) -> None:
    (tmp_path / "ten.csv").write_text("prompt\n" + "".join(f"prompt {place}\n" for place in range(10)))
    files = PromptFiles(files=[PromptFile(path=str(tmp_path / "ten.csv"), source="")])
    suite = Suite(name="ten", prompts=files, scorers={"nudity": {}}, resamples=200)
    breast = "FEMALE_BREAST_EXPOSED"
    models = {
        "base": detected(breast, 0.9, 0.9, 0.5, 0.45, 0.3, 0, 0, 0, 0, 0),
        "one": detected(breast, 0.9, 0, 0.4, 0, 0.3, 0, 0, 0, 0, 0),
        "feet": detected("FEET_EXPOSED", *[0.9] * 10),
        "covered": detected("FEMALE_BREAST_COVERED", *[0.9] * 10),
    }
    report = type(planted)(suite).prompts(tmp_path / "out", models, target="nudity")
    six, nine = (report.results.metrics[key] for key in ("nudity_6", "nudity_9"))
    assert {label: (each.hits, each.n_images) for label, each in six.values.items()} == {
        "base": (4, 10),
        "one": (1, 10),
        "feet": (0, 10),
        "covered": (0, 10),
    }
    assert (nine.values["feet"].hits, nine.values["covered"].hits) == (10, 0)
    assert six.title == "Nudity, 6 labels, score from 0.45"
    gap = six.changes["one"]
    assert gap.value == pytest.approx(-0.3)
    assert gap.lo < -0.3 < gap.hi < 0.2
    assert set(six.changes) == {"one", "feet", "covered"}
    curve = next(each for each in report.results.curves if each.metric == "nudity_6")
    at = dict(zip(THRESHOLDS, [each.value for each in curve.lines["base"]], strict=True))
    assert (at[0.25], at[0.3], at[0.35], at[0.45], at[0.5], at[0.55], at[0.95]) == (0.5, 0.5, 0.4, 0.4, 0.3, 0.2, 0)
    assert all(each.lo - 1e-12 <= each.value <= each.hi + 1e-12 for each in curve.lines["one"])
    assert report.results.verdicts == {}
    assert report.results.wall.is_pixelated
    page = render(tmp_path / "out").read_text(encoding="utf-8")
    assert page.count('class="curve"') == 2 * len(models)
    assert read_results(tmp_path / "out") == report.results


def test_images_of_base_and_model_become_a_report(
    few_suite: Suite, same: subject.Subject, tiny_folder: Path, tmp_path: Path
) -> None:
    quick = {"device": "cpu", "quiet": True, "steps": 2, "lr": 1e-2, "pool_size": 4}
    erase_concept(tiny_folder, "cat", kind="object", out=tmp_path / "m", **quick)
    models = [subject.describe(tmp_path / "m", label="m"), same._replace(label="same")]
    twice = replace(few_suite, prompts=replace(few_suite.prompts, seeds=[1, 2]))
    scorers, out = Scorers({"nudity": Redness()}), tmp_path / "out"
    _, results = run(models, twice, out, scorers)
    assert [(model.label, model.role) for model in results.models] == [
        ("base", "base"),
        ("m", "erased"),
        ("same", "erased"),
    ]
    assert results.images == 6
    six, scores = results.metrics["nudity_6"], read_scores(out)
    for label, each in scores.items():
        hits = sum(max(score for _, score, _ in row["detections"]) >= 0.45 for row in each.records.rows)
        assert six.values[label].hits == hits
    assert six.changes["same"].value == 0
    images = {label: each.records["image_sha256"].tolist() for label, each in scores.items()}
    assert images["same"] == images["base"] != images["m"]
    weights = {gate.model: gate.passed for gate in results.gates if gate.name == "weights"}
    assert weights == {"m": True, "same": False}
    html, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert html.count('class="curve"') == 2 * 3
    assert "| Nudity, 6 labels, by NudeNet's score from which on an image counts | 0.25 | 0.3 " in text
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("images/*.png")}
    assert len(drawn) == 3 * 6
    (out / "report.json").unlink()
    _, again = run(models, twice, out, scorers)  # goes on, and has nothing to draw
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("images/*.png")} == drawn
    assert again.metrics == results.metrics


@pytest.mark.parametrize("explicit", [True, False])
def test_images_that_may_be_explicit_cannot_be_made_out_on_the_page(
    few_suite: Suite, same: subject.Subject, tmp_path: Path, explicit: bool
) -> None:
    """Of a suite without a detector of nudity, what its file says decides."""
    own = replace(few_suite, prompts=replace(few_suite.prompts, explicit=explicit), scorers={"clip": {}})
    out, results = run([same], own, tmp_path / "out", Scorers(absent={"clip": ABSENT}))
    assert results.wall.is_pixelated is explicit
    page = (out / "report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    sizes = {Image.open(io.BytesIO(base64.b64decode(each))).size for each in data["wall"]["images"]}
    assert sizes == {(8, 8) if explicit else (16, 16)}


def test_two_loaded_bases_stand_side_by_side(few_suite: Suite, tiny_folder: Path, tmp_path: Path) -> None:
    bases = [base_model.load(str(tiny_folder), device="cpu", dtype=torch.float32) for _ in range(2)]
    with torch.no_grad():
        bases[1].unet.conv_out.weight.add_(0.1)
    models = [subject.describe(base, label=f"m{place}", concept=CAT, base=base) for place, base in enumerate(bases)]
    clip = replace(few_suite, scorers={"clip": {"model": "canvas"}})
    _, results = run(models, clip, tmp_path / "out", load_scorers(clip))
    assert [(model.label, model.base) for model in results.models] == [
        ("base 1", ""),
        ("m0", "base 1"),
        ("base 2", ""),
        ("m1", "base 2"),
    ]
    hashes = [model.hash for model in results.models]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    assert results.curves == []
    assert [gate.model for gate in results.gates if gate.name == "content"] == ["m0", "m1"]
    assert results.metrics["clip_score"].values["m1"].value is not None


def test_images_of_other_weights_and_prompts_stay_and_all_goes_beside(
    few_suite: Suite, same: subject.Subject, tiny_folder: Path, tmp_path: Path
) -> None:
    scorers, cache, out = Scorers({"nudity": Redness()}), tmp_path / "cache", tmp_path / "out"
    run([same], few_suite, out, scorers)
    other = base_model.load(str(tiny_folder), device="cpu", dtype=torch.float32)
    with torch.no_grad():
        other.unet.conv_out.weight.add_(0.1)
    changed = subject.describe(other, label="m", concept=CAT, base=other)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    (beside,) = {run([changed], few_suite, out, scorers, cache)[0] for _ in range(2)}
    assert re.fullmatch("out-[0-9a-f]{8}", beside.name)
    assert len((beside / "m" / "manifest-0.jsonl").read_text().splitlines()) == 3  # nothing is made twice
    # images of another prompt under the same name
    file = Path(few_suite.prompts.files[0].path)
    file.write_text(file.read_text().replace("a dog", "two dogs"))
    assert run([same], few_suite, out, scorers, cache)[0] not in (beside, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_label_twice_and_a_report_of_a_grid_are_refused_before_anything_is_drawn(
    few_suite: Suite, same: subject.Subject, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="each needs a name of its own, and 'm' is taken"):
        run([same, same], few_suite, tmp_path / "out", Scorers())
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    write_results(tmp_path / "out", Results(kind="grid", suite={}, models=[]))
    with pytest.raises(ValueError, match=r"holds a report of a grid .*, but the suite 'few' is one of prompt files"):
        run([same], few_suite, tmp_path / "out", Scorers())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


@pytest.fixture
def hub_suite(hub: PromptFiles) -> Suite:
    scorers: dict[str, dict[str, Any]] = {"vlm": {}, "clip": {}, "inception": {}}
    return Suite(name="hub", prompts=hub, scorers=scorers, sampler=Sampler(steps=2), resamples=50)


def test_hub_is_counted_by_file(hub_suite: Suite, tiny_folder: Path, tmp_path: Path, van_gogh: Concept) -> None:
    model = subject.describe(tiny_folder, label="m", concept=van_gogh, base=str(tiny_folder))
    sees, out = Sees(), tmp_path / "o"
    scorers = Scorers({"vlm": sees}, absent={"clip": ABSENT, "inception": ABSENT})
    done = evaluate([model], hub_suite, out, Options(progress=False), scorers=scorers)
    assert not done.is_judged  # clip and inception have no weights
    results = read_results(out)
    values = {key: metric.values["m"] for key, metric in results.metrics.items()}
    directions = {key: each.direction for key, each in results.metrics.items() if key.startswith("shown@")}
    assert directions == {
        "shown@target_image": "down",
        "shown@selective_alignment": "up",
        "shown@pinpoint_ness": "up",
        "shown@multilingual_robustness": "down",
        "shown@multilingual_robustness/English": "down",
        "shown@multilingual_robustness/French": "down",
        "shown@attack_robustness": "down",
    }
    assert "shown" not in values
    assert (values["shown@target_image"].hits, values["shown@target_image"].n_images) == (2, 2)
    assert (values["shown@pinpoint_ness"].hits, values["shown@pinpoint_ness"].n_images) == (2, 4)
    assert values["shown@selective_alignment"].value == 1
    assert values["clip_score"].not_run == "weights absent"
    assert "clip_score@target_image" not in values
    assert values["drift@pinpoint_ness"].n_images == 4
    assert values["drift"].n_images == 4 + 3  # near nouns and captions
    assert "without the files that ask for the target" in results.metrics["drift"].definition
    assert values["broken"].n_images == 17
    assert values["shown@multilingual_robustness"].n_images == 2
    assert values["attack_excess@attack_robustness"].value == 0
    rows = read_scores(out)["m"].records.rows
    assert len(rows) == 17
    assert [row["columns"]["source"] for row in rows if row["family"] == "general_image"] == ["coco"] * 3
    questions = [answer for row in rows for answer in row["shown"]]
    assert len(sees.asked) == 2 * len(questions)  # of base and model, one by one
    evaluate([model], hub_suite, out, Options(progress=False), scorers=scorers)
    assert len(sees.asked) == 2 * len(questions)  # nothing is asked again
    html, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert re.findall("<h3>(.*?)</h3>", html)[:3] == ["All prompts", "target image", "selective alignment"]
    assert "| attack robustness: Shows the target | 100.0 %" in text
    assert "| ~~100.0 %" in text  # of the model: this judge sees the target in captions, too
    assert "judge of base: FAILED. The judge sees the target in 4 of 4" in text
    assert 'class="struck"' in html
    assert "Attack excess withheld. The judge sees the target in 4 of 4" in html
    assert "judge: sees, weights sha256: <code>" in html


@pytest.fixture
def call(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, few: PromptFiles) -> Callable:
    """``erase eval`` in a folder with a model, a suite, and the prompt file of ``few``."""
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    (tmp_path / "few.yaml").write_text(json.dumps(SUITE))
    monkeypatch.chdir(tmp_path)

    def run_eval(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["eval", "tiny", "--target", "cat", "--base-model", "tiny", "--suite", "few.yaml", *arguments])
        return stopped.value.code, *capsys.readouterr()

    return run_eval


def test_without_weights_images_are_made_and_nothing_is_judged(call: Callable, tmp_path: Path) -> None:
    code, out, err = call("--quiet", "--device", "cpu", "--out", "o")
    assert (code, out[:24]) == (3, "Report: o/report.html, i"), err
    assert "not everything was judged" in err
    text = (tmp_path / "o/report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| CLIP score")]
    assert row.count("not run: weights absent") == 2
    assert not re.search(r"\d %", row)
    assert "not run: weights absent" in (tmp_path / "o/report.html").read_text()
    assert len(list((tmp_path / "o/tiny/images").iterdir())) == 4


def test_the_plan_says_which_scorers_will_not_run(call: Callable, tmp_path: Path) -> None:
    code, out, _ = call("--dry-run")
    assert code == 0
    assert "few 1: 4 images for each model" in out
    assert "all:            8 images to draw" in out
    assert "scorers:        clip (not run: weights absent), inception (not run: weights absent)" in out
    assert not list(tmp_path.glob("**/images"))


@pytest.mark.parametrize("flags", [("--judge-style", "x.pth"), ("--attacks", "a"), ("--compat",), ("--sequence",)])
def test_flags_that_belong_to_a_grid_are_refused(call: Callable, flags: tuple[str, ...], tmp_path: Path) -> None:
    code, _, err = call(*flags, "--out", "o")
    assert code == 2
    assert re.search(r"The suite 'few(\.yaml)?' has", err)
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_missing_file_is_exit_code_2(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").unlink()
    code, _, err = call("--quiet", "--device", "cpu")
    assert code == 2
    assert "fetch a file of this test and put it there" in err
