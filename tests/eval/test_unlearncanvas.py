"""Evaluations in the world of UnlearnCanvas, judged by two timm classifiers, and reports without their weights."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torchvision import transforms

from erase.cli.main import main
from erase.cli.measuring import NOT_JUDGED
from erase.concept import Concept
from eval.attack.record import read_record
from eval.draw import manifest
from eval.draw.generate import generate
from eval.evaluate import Options, evaluate
from eval.formulas.accuracy import Answers, unlearn_canvas
from eval.models import subject
from eval.results import Results, read_results
from eval.score.table import read_scores
from eval.score.weights import ABSENT
from eval.suite.grid import Target
from eval.suite.suite import Suite, load_suite
from eval.suite.world import load_world


WORLD = load_world("unlearncanvas")
VAN_GOGH = Target("style", ("Van_Gogh",))
ARCHITECTURE = "test_vit"  # 160 px, 0.4 M parameters
GRID = {"styles": ["Monet", "Seed_Images", "Van_Gogh"], "objects": ["Cats", "Dogs"], "seeds": [1, 2, 3, 4]}
SUITE = {
    "name": "few",
    "sampler": {"steps": 2, "guidance_scale": 5.0},
    "grid": {"world": "unlearncanvas", **GRID, "held_out": "", "gold": False},
    "scorers": {"timm_pair": {"architecture": ARCHITECTURE}},
    "metrics": ["target_image", "general_image", "efficiency"],
    "resamples": 50,
}
JUDGED = ("ua", "ira", "cra_excl_target", "cra_code", "normalised_erasure", "diversity", "fd_canvas", "kid_canvas")


def as_the_authors_do(path: Path, side: int = 160) -> torch.Tensor:
    """The preprocessing of the benchmark's ``accuracy.py``, by the library that it uses."""
    steps = [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    return transforms.Compose(steps)(Image.open(path).convert("RGB"))[None]


def blank_model(classes: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        return timm.create_model(ARCHITECTURE, num_classes=classes).eval()


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "few.yaml"
    path.write_text(json.dumps(SUITE))
    return path


@pytest.fixture(scope="module")
def judge(tiny_folder: Path, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints whose heads are fitted to what the base draws."""
    place = tmp_path_factory.mktemp("judge")
    suite = load_suite(str(suite_file))
    rows = suite.rows(VAN_GOGH)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    generate(pipe, rows, place, suite.sampler, progress=False)
    images = torch.cat([as_the_authors_do(place / "images" / f"{row.key}.png") for row in rows])
    files = {}
    for kind in ("style", "object"):
        labels = WORLD.labels(kind)
        model = blank_model(len(labels))
        with torch.no_grad():
            pooled = model.forward_head(model.forward_features(images), pre_logits=True)
            shift = pooled.mean(0)
            wanted = torch.zeros(len(rows), len(labels), dtype=torch.float64)
            wanted[range(len(rows)), [labels.index(getattr(row, kind)) for row in rows]] = 16.0
            seen = (pooled - shift).double()
            kernel = seen @ seen.T  # ridge, since exact weights would be so large that rounding decides
            ridge = kernel.trace() / len(rows) * 1e-6 * torch.eye(len(rows), dtype=torch.float64)
            weight = (seen.T @ torch.linalg.solve(kernel + ridge, wanted)).float()
            model.head.weight.copy_(weight.T)
            model.head.bias.copy_(-8 - shift @ weight)
        files[kind] = place / f"{kind}.pth"
        torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, files[kind])
    return files


@pytest.fixture(scope="module")
def suite(suite_file: Path, judge: dict[str, Path]) -> Suite:
    return load_suite(str(suite_file), judge_style=str(judge["style"]), judge_object=str(judge["object"]))


def damaged(pipe: StableDiffusionPipeline, scale: float = 0.3) -> StableDiffusionPipeline:
    """Something else than the base, so that some answers of the judge change."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(scale * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return pipe


def run(pipe: StableDiffusionPipeline, base: Any, suite: Suite, out: Path, concept: Concept) -> Results:
    tested = subject.describe(pipe, concept=concept, base=base)
    evaluate([tested], suite, out, Options(progress=False))
    return read_results(out)


def value(results: Results, key: str, model: str = "erased") -> float:
    return results.metrics[key].values[model].value


def test_a_judged_report(
    suite: Suite, judge: dict[str, Path], tiny_pipe, tiny_folder: Path, van_gogh: Concept, tmp_path: Path
) -> None:
    """The numbers are those that the benchmark's own steps give on the images that were drawn."""
    results = run(damaged(tiny_pipe), str(tiny_folder), suite, tmp_path, van_gogh)
    assert results.provenance.cards["timm_pair"]["architecture"] == ARCHITECTURE
    assert results.metrics["fd_canvas"].title == "fd_unlearncanvas"
    assert value(results, "ua", "base") == 0  # the judge was fitted to the base's images
    assert value(results, "ira", "base") == 1
    models = {}
    for kind, path in judge.items():
        models[kind] = blank_model(len(WORLD.labels(kind)))
        models[kind].load_state_dict(torch.load(path, weights_only=True)["model_state_dict"])
    right: dict[str, dict[tuple[str, str], list[bool]]] = {"style": {}, "object": {}}
    for row in suite.rows(VAN_GOGH):
        for kind, model in models.items():
            with torch.no_grad():
                logits = model(as_the_authors_do(tmp_path / "erased" / "images" / f"{row.key}.png"))
            hit = WORLD.labels(kind)[int(logits.argmax())] == getattr(row, kind)
            right[kind].setdefault((row.style, row.object), []).append(hit)
    gone = 1 - np.mean([right["style"]["Van_Gogh", obj] for obj in ("Cats", "Dogs")])
    kept = [(style, obj) for style in ("Monet", "Seed_Images") for obj in ("Cats", "Dogs")]
    assert value(results, "ua") == pytest.approx(gone)
    assert value(results, "ira") == pytest.approx(np.mean([right["style"][cell] for cell in kept]))
    assert value(results, "cra_excl_target") == pytest.approx(np.mean([right["object"][cell] for cell in kept]))
    assert value(results, "cra_code") == pytest.approx(np.mean(list(right["object"].values())))
    assert 0 < value(results, "ira") < 1  # some of both, so that the numbers could be told apart
    assert results.verdicts["erased"].code != "not judged"
    scores = read_scores(tmp_path)["erased"]
    assert np.allclose([sum(row["object_scores"]) for row in scores.records.rows], 1, atol=1e-3)
    assert scores.arrays["judge"].shape == (24, 128)


def test_compat_through_the_suite(suite: Suite, tiny_pipe, van_gogh: Concept, tmp_path: Path) -> None:
    """Photos are asked for by the name of their folder, their style does not count, and the judge sees JPEG."""
    compat = replace(suite, grid=replace(suite.grid, compat=True), metrics=["general_image"])
    results = run(tiny_pipe, tiny_pipe, compat, tmp_path, van_gogh)
    n = {key: results.metrics[key].values["erased"].n_images for key in ("ua", "ira", "cra_excl_target", "cra_code")}
    assert n == {"ua": 8, "ira": 8, "cra_excl_target": 16, "cra_code": 24}
    counted = [(row.axis, row.concept) for row in results.concepts if row.counted]
    assert sorted(counted) == [("object", "Cats"), ("object", "Dogs"), ("style", "Monet")]
    worst = results.metrics["worst_retained"].values["erased"].about
    assert worst["concept"] != "Seed_Images"
    assert worst["concepts"] == 3
    prompts = {row["prompt"] for row in read_scores(tmp_path)["base"].records.rows}
    assert "A Cats image in Seed Images style." in prompts
    assert "A Cats image in Photo style." not in prompts
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "as its benchmark&#39;s published code has it" in page
    assert "test_vit" in page
    assert "JPEG of quality 75" in page


@pytest.mark.parametrize("family", ["tiny_pipe_v", "tiny_pipe_xl"])
def test_other_families(family: str, suite: Suite, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pipe = request.getfixturevalue(family)
    results = run(pipe, pipe, suite, tmp_path, Concept(target=("Dogs",), kind="object"))
    assert results.metrics["ua"].values["erased"].n_images == 3 * 4
    assert value(results, "unchanged") == 1
    assert not next(gate.passed for gate in results.gates if gate.name == "judge")  # it knows another base
    assert results.verdicts["erased"].code == "not measurable"


@pytest.mark.parametrize("kind", ["style", "object"])
def test_compat_leaves_out_the_style_accuracy_of_photos(kind: str) -> None:
    style = np.repeat(["Monet", "Seed_Images", "Van_Gogh"], 2)
    obj = np.tile(["Cats", "Dogs"], 3)
    seen_style = np.array(["Monet", "Van_Gogh", "Van_Gogh", "Monet", "Monet", "Van_Gogh"])
    targets = ["Van_Gogh"] if kind == "style" else ["Dogs"]
    answers = Answers(style, obj, seen_style, obj, np.arange(6))
    outcomes = unlearn_canvas(answers, kind=kind, targets=targets, uncounted_styles=("Seed_Images",))
    values = {name: each.value for name, each in outcomes.items()}
    if kind == "style":  # Monet twice, one of them right; the objects in photos count
        assert values == {"ua": 0.5, "ira": 0.5, "cra_excl_target": 1, "cra_code": 1}
    else:  # of cats Monet is right and Van Gogh wrong; of all, two of four
        assert values == {"ua": 0, "ira": 1, "cra_excl_target": 0.5, "cra_code": 0.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, suite_file: Path) -> Path:
    """Two damaged models beside their base."""
    place = tmp_path_factory.mktemp("models")
    for name, scale in (("a", 0.05), ("b", 0.3)):
        damaged(StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32), scale).save_pretrained(
            place / name
        )
    return place


@pytest.fixture
def call(
    place: Path,
    tiny_folder: Path,
    suite_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(place)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        given = ["--suite", suite_file, "--target", "Van Gogh", "--base-model", tiny_folder, "--device", "cpu"]
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in (*arguments, *given)])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_without_weights_nothing_is_judged(call, judge: dict[str, Path], place: Path) -> None:
    """Images are there, no number that rests on the judge is, and the verdict and the exit code say so."""
    code, out, err = call("eval", "a", "--out", "one", "--quiet")
    assert code == NOT_JUDGED
    assert "Report: " in out
    assert "not everything was judged" in err
    results = read_results(place / "one")
    assert results.verdicts["a"].code == "not judged"
    assert not next(gate.passed for gate in results.gates if gate.name == "judge")
    for key in (*JUDGED, "target_proportion", "leak_at_k", "worst_retained"):
        metric = results.metrics[key]
        for model in ("a", "base"):
            estimate = metric.values[model]
            assert estimate is None or (estimate.value, estimate.not_run) == (None, ABSENT)
        assert metric.values["a"] is not None
    assert results.metrics["ua"].struck == {}  # there is no number to withhold
    assert value(results, "drift", "a") > 0  # what needs no judge is measured
    assert results.metrics["collapse_retain"].values["a"].n_images == 16
    assert results.cells == {}
    images = sorted((place / "one" / "a" / "images").glob("*.png"))
    assert len(images) == 24
    page, text = ((place / "one" / f"report.{form}").read_text(encoding="utf-8") for form in ("html", "md"))
    assert "Not judged" in page
    assert page.count("not run: weights absent") >= 2 * len(JUDGED)
    assert page.count("Change per cell") == page.count("Erasure against retention") == 0
    assert "unjudged" in page
    assert "| UA | not run: weights absent | not run: weights absent |" in text
    stamps = [path.stat().st_mtime_ns for path in images]
    files = ("--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, err = call("eval", "a", "--out", "one", "--quiet", *files)
    assert (code, err) == (0, "")
    assert [path.stat().st_mtime_ns for path in images] == stamps
    results = read_results(place / "one")
    assert value(results, "ua", "a") is not None
    assert f"--judge-style {judge['style']}" in results.reproduce


def test_wordings_and_attacks_without_weights(suite_file: Path, tiny_pipe, van_gogh: Concept, tmp_path: Path) -> None:
    (tmp_path / "held_out.csv").write_text(
        "family,concept,kind,prompt,style,object,language\n"
        "alias,Van_Gogh,style,a starry cat,Van_Gogh,Cats,English\n"
        "language,Van_Gogh,style,un chat,Van_Gogh,Cats,French\n"
        "language,Van_Gogh,style,ein hund,Van_Gogh,Dogs,German\n"
    )
    (tmp_path / "attacks.csv").write_text(
        "prompt,attack,null,kind,concept\nxx cat,search,,style,Van_Gogh\nyy cat,search,yes,style,Van_Gogh\n"
    )
    suite = load_suite(str(suite_file))
    held_out, attacks = (str(tmp_path / name) for name in ("held_out.csv", "attacks.csv"))
    grid = replace(suite.grid, held_out=held_out, held_out_seeds=[1], attacks=attacks)
    own = replace(suite, grid=grid, metrics=["multilingual_robustness", "attack_robustness"])
    results = run(tiny_pipe, tiny_pipe, own, tmp_path / "out", van_gogh)
    rows = [*results.held_out, *results.attacks]
    assert len(rows) == 1 + 3 + 2  # alias; both languages together and each; attack and null
    for row in rows:
        for estimate in row.values.values():
            assert (estimate.value, estimate.not_run) == (None, ABSENT)
            assert estimate.n_images > 0
    assert results.metrics["attack_excess"].values["erased"].not_run == ABSENT
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| alias | not run: weights absent | not run: weights absent | n/a | 1 / 1 |" in text


def test_several_models_without_weights(call, place: Path) -> None:
    code, _, _ = call("eval", "a", "b", "--out", "both", "--quiet")
    assert code == NOT_JUDGED
    results = read_results(place / "both")
    assert {label: verdict.code for label, verdict in results.verdicts.items()} == dict.fromkeys("ab", "not judged")
    gaps = next(pair for pair in results.differences if (pair.a, pair.b) == ("base", "b"))
    assert "drift" not in gaps.metrics  # the base does not drift
    assert not {"ua", "ira", "normalised_erasure"} & set(gaps.metrics)
    assert results.concepts == []


def test_several_judged_models(call, judge: dict[str, Path], place: Path) -> None:
    files = ("--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, _ = call("eval", "a", "b", "--out", "judged", "--quiet", *files)
    assert code == 0
    results = read_results(place / "judged")
    pair = next(each for each in results.differences if (each.a, each.b) == ("a", "b"))
    assert pair.paired
    assert pair.metrics["ira"].value == pytest.approx(value(results, "ira", "b") - value(results, "ira", "a"))
    assert "Seed Images" in (place / "judged" / "report.html").read_text(encoding="utf-8")


def test_the_plan(call, place: Path) -> None:
    code, out, _ = call("eval", "a", "b", "--out", "planned", "--dry-run")
    assert code == 0
    assert "few 1: 3 styles x 2 objects x 4 seeds = 24 images of the grid for each model" in out
    assert out.count("24, of which 0 are there") == 3  # base, a, b
    assert out.count("96 samples") == 3  # two steps, each with guidance
    assert "72 images to draw, 288 UNet forwards" in out
    assert re.search(r"^time: +about .* on cpu", out, re.MULTILINE)
    assert "scorers:        timm_pair (not run: weights absent)" in out
    assert not (place / "planned").exists()
    call("eval", "a", "--out", "drawn", "--quiet")
    code, out, _ = call("eval", "a", "--out", "drawn", "--dry-run")
    assert "24, of which 24 are there" in out


def test_compat_on_the_command_line_is_that_of_the_file(call, place: Path) -> None:
    assert call("eval", "a", "--out", "compat", "--quiet", "--compat")[0] == NOT_JUDGED
    results = read_results(place / "compat")
    assert results.suite["grid"]["compat"] is True
    assert results.reproduce.endswith(" --compat")
    assert "as its benchmark&#39;s published code has it" in (place / "compat/report.html").read_text(encoding="utf-8")
    prompts = {row["prompt_text"] for row in manifest.read(place / "compat/a").values()}
    assert "A Cats image in Seed Images style." in prompts
    assert "A Cats image in Photo style." not in prompts


def test_an_attack_with_compat_stands_beside_an_evaluation_with_compat_only(
    call, judge: dict[str, Path], place: Path
) -> None:
    files = ("--quiet", "--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, err = call("attack", "b", "--attack", "seeds", "--tries", "1", "--out", "b.seeds", *files, "--compat")
    assert (code, err) == (0, "")
    record = read_record(place / "b.seeds")
    assert record.suite["grid"]["compat"] is True
    assert record.reproduce.endswith(" --compat")
    assert "JPEG" in record.provenance["judge"]["preprocessing"]
    code, _, err = call("eval", "b", "--out", "b.refused", *files, "--attacks", "b.seeds")
    assert code == 2
    assert "run `erase attack` without --compat" in err
    assert not (place / "b.refused").exists()
    for out, flags, is_foreign in (("b.right", [], True), ("b.compat", ["--compat"], False)):
        assert call("eval", "b", "--out", out, *files, *flags)[0] == 0
        (searched,) = read_results(place / out).searched
        assert searched.is_foreign is is_foreign
        assert ("without --compat" in searched.struck) is is_foreign


def test_compat_is_refused_where_it_means_nothing(place: Path, capsys: Any) -> None:
    for suite, message in (
        ("canvas", "The world canvas has no published code to be compatible with; leave compat out."),
        ("coco", "has prompt files and no benchmark to be compatible with: leave compat out."),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["eval", "a", "--suite", suite, "--compat", "--target", "Van Gogh", "--base-model", "a"])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["attack", "a", "--suite", "canvas", "--compat", "--target", "Van Gogh", "--base-model", "a"])
    assert stopped.value.code == 2
    assert "no published code to be compatible with; leave compat out." in capsys.readouterr().err


def test_an_attack_needs_the_judge(call, suite_file: Path, tiny_pipe, tiny_folder: Path, place: Path) -> None:
    code, _, err = call("attack", "a", "--attack", "seeds", "--out", "attacked")
    assert code == 2
    assert "no weights of its judge" in err
    assert not (place / "attacked").exists()


def test_an_attack_is_judged_by_the_pair(call, judge: dict[str, Path], place: Path) -> None:
    files = ("--quiet", "--judge-style", judge["style"], "--judge-object", judge["object"])
    code, _, err = call("attack", "a", "--attack", "seeds", "--tries", "1", "--out", "paired", *files)
    assert (code, err) == (0, "")
    assert read_record(place / "paired").provenance["judge"]["judge"] == "timm_pair"
