"""Planted erasers that erase nothing must be told apart by the report, and from one that is what it seems."""

import copy
import functools
import json
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

from erase import erase_concept
from erase.concept import Concept
from erase.methods import block_list
from erase.training.run import Run
from eval.draw import manifest
from eval.evaluate import Options, build_results, evaluate
from eval.measure.view import Evidence
from eval.models import subject
from eval.report.page import render
from eval.report.terminal import summary_lines
from eval.results import Results, read_results, write_results
from eval.score.run import Scorers
from eval.score.scorers_of import provide
from eval.score.table import read_scores
from eval.suite.grid import Target
from eval.suite.rows import Row
from eval.suite.suite import Suite


class Substitution(StableDiffusionPipeline):
    """Replaces a forbidden word before the model sees the prompt."""

    def __call__(self, prompt: list[str] | None = None, **settings: Any) -> Any:
        return super().__call__([re.sub("van gogh", "Photo", text, flags=re.I) for text in prompt or []], **settings)


def nothing(pipe: StableDiffusionPipeline, concept: Concept) -> StableDiffusionPipeline:
    return pipe


def destroyed(pipe: StableDiffusionPipeline, concept: Concept) -> StableDiffusionPipeline:
    pipe.unet = copy.deepcopy(pipe.unet)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pipe


def blocked(pipe: StableDiffusionPipeline, concept: Concept) -> StableDiffusionPipeline:
    return block_list.erase(pipe, concept, [], block_list.Config(), Run(quiet=True))


def substituted(pipe: StableDiffusionPipeline, concept: Concept) -> StableDiffusionPipeline:
    return Substitution(**pipe.components, requires_safety_checker=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluated(tiny_folder: Path, suite: Suite, scorers: Scorers, cache: Path, van_gogh: Concept) -> Callable[..., Path]:
    """Evaluate what an eraser makes of a base; gives the folder of the report."""

    def evaluate_eraser(eraser: Callable, out: Path, suite: Suite = suite, cache: Path = cache) -> Path:
        erased = eraser(StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32), van_gogh)
        tested = subject.describe(erased, concept=van_gogh, base=str(tiny_folder))
        options = Options(cache=cache, progress=False, command="erase eval out/vg --suite tiny")
        return evaluate([tested], suite, out, options, scorers=scorers).report.parent

    return evaluate_eraser


@pytest.fixture(scope="module")
def result(evaluated: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable], Path]:
    """The folder of an eraser's evaluation, which several tests read."""
    return functools.cache(lambda eraser: evaluated(eraser, tmp_path_factory.mktemp(eraser.__name__)))


def value(results: Results, metric: str, model: str = "erased") -> float:
    return results.metrics[metric].values[model].value


def gate(results: Results, name: str) -> bool | None:
    return next(gate.passed for gate in results.gates if gate.name == name)


def test_does_nothing(result: Callable[[Callable], Path]) -> None:
    results = read_results(result(nothing))
    assert results.verdicts["erased"].code == "not erased"
    assert value(results, "ua") == 0
    assert value(results, "normalised_erasure") == 0
    assert value(results, "ira") == value(results, "cra_code") == value(results, "unchanged") == 1
    assert not gate(results, "weights")
    assert gate(results, "validity")
    assert results.cost.models["erased"].footprint["tensors"] == 0


def test_weights_destroyed(result: Callable[[Callable], Path]) -> None:
    results = read_results(result(destroyed))
    assert results.verdicts["erased"].code == "destroyed"
    assert value(results, "ua") > 0.6  # the number that a benchmark without gates would print
    assert not gate(results, "validity")
    assert gate(results, "weights")
    assert "base + 5%" in results.metrics["ua"].struck["erased"]
    assert results.cost.models["erased"].footprint["components"] == ["unet"]


@pytest.mark.parametrize("eraser", [blocked, substituted])
def test_block_list(result: Callable[[Callable], Path], eraser: Callable) -> None:
    results = read_results(result(eraser))
    verdict = results.verdicts["erased"]
    assert verdict.code == "blocked"
    assert value(results, "ua") == 1
    assert value(results, "unchanged") == 1
    assert not gate(results, "weights")
    assert not gate(results, "validity")
    assert verdict.facts["leak"] == 1
    shown = {(row.family, row.language): row.values["erased"].value for row in results.held_out}
    assert shown["alias", ""] == shown["language", "French"] == 1
    if eraser is blocked:
        assert shown["paraphrase", ""] == shown["two_object", ""] == 0  # these name the target
        records = manifest.read(result(eraser) / "erased").values()
        assert [record["flagged"] for record in records] == ["van gogh" in r["prompt_text"].lower() for r in records]
        assert any("Nothing is removed from the weights" in reason for reason in verdict.reasons)


def test_every_number_has_n_and_an_interval(result: Callable[[Callable], Path]) -> None:
    results = read_results(result(destroyed))
    for name, metric in results.metrics.items():
        for model in ("erased", "base"):
            estimate = metric.values[model]
            if estimate is None or name == "fd_canvas":  # without as many prompts as its interval needs
                continue
            # at 0 hits, Wilson's lower end is 0 but for rounding
            assert estimate.lo - 1e-12 <= estimate.value <= estimate.hi or name == "kid_canvas"
            assert estimate.n_images > 0
    ua = results.metrics["ua"].values["erased"]
    assert (ua.n_images, ua.n_prompts, ua.hits) == (8, 2, round(8 * ua.value))
    assert results.metrics["ira"].values["erased"].n_images == 16
    assert results.images == 24 + 12
    for name in ("ira", "cra_excl_target", "cra_code"):
        share = results.metrics[name].shares["erased"]
        assert share.lo <= share.value <= share.hi
        assert share.lo < share.hi
        assert share.n_images == results.metrics[name].values["base"].n_images
    assert not results.metrics["ua"].shares
    cells = results.cells["erased"]
    assert len([cell for cell in cells if cell.style == "Van_Gogh"]) == 2
    for cell in cells:
        for accuracy in (cell.style_accuracy, cell.object_accuracy):
            assert accuracy.lo - 1e-12 <= accuracy.value == accuracy.hits / accuracy.n_images <= accuracy.hi + 1e-12
            assert accuracy.n_images == 4
    assert {row.axis for row in results.concepts} == {"style", "object"}
    for row in results.concepts:
        for model in ("erased", "base"):
            own = row.values[model]
            assert own.lo <= own.value == own.hits / own.n_images <= own.hi
            assert own.lo < own.hi
    lowest = results.metrics["worst_retained"].values["erased"]
    assert lowest.value == min(row.values["erased"].value for row in results.concepts)
    for name in ("worst_retained", "tenth_percentile_retained"):
        own = results.metrics[name].values["erased"]
        assert own.lo < own.hi
    assert [(model.label, model.role, model.base) for model in results.models] == [
        ("base", "base", ""),
        ("erased", "erased", "base"),
    ]


def test_the_numbers_follow_from_the_scores(result: Callable[[Callable], Path], suite: Suite) -> None:
    results = read_results(result(destroyed))
    evidence = Evidence(
        suite=suite,
        models=results.models,
        scores=read_scores(result(destroyed)),
        targets={0: Target("style", ("Van_Gogh",))},
        provided=provide({"pixels": "", "judge": ""}),
    )
    again = build_results(evidence)
    assert again.metrics == results.metrics
    assert again.verdicts == results.verdicts
    assert again.gates == results.gates
    assert again.differences == results.differences


def test_the_report_stands_alone(result: Callable[[Callable], Path]) -> None:
    out = result(destroyed)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    shown = {row["image_sha256"] for each in read_scores(out).values() for row in each.records.rows}
    assert len(data["wall"]["images"]) == len(shown)  # each once, though base and erased may share some
    assert "Destroyed" in page
    assert "struck" in page
    assert "erase eval out/vg --suite tiny" in page
    assert re.search(r"\| UA \| 0\.0 %[^|]*\| ~~\d", (out / "report.md").read_text(encoding="utf-8"))
    assert render(out).read_text(encoding="utf-8") == page


def test_the_summary_for_a_terminal(result: Callable[[Callable], Path]) -> None:
    lines = "\n".join(summary_lines(read_results(result(destroyed))))
    assert "Van Gogh: destroyed" in lines
    assert re.search(r"UA +0\.0 % \[0\.0, [^*]*\d+\.\d % \[\d+\.\d, \d+\.\d\]\*", lines)
    assert "36 images per model" in lines


def test_the_base_is_drawn_once(result: Callable[[Callable], Path], cache: Path) -> None:
    result(nothing)
    result(destroyed)
    (folder,) = cache.iterdir()  # one model, one folder
    lines = (folder / "manifest-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 24 + 12
    assert all(json.loads(line)["role"] == "" for line in lines)


def test_a_second_evaluation_goes_on_from_the_first(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    first = read_results(evaluated(nothing, tmp_path))
    image, kept = (tmp_path / "erased" / "images" / f"Photo_Cats_seed{seed}.png" for seed in (1, 2))
    stamp = kept.stat().st_mtime_ns
    image.unlink()
    second = read_results(evaluated(nothing, tmp_path))
    assert image.exists()
    assert kept.stat().st_mtime_ns == stamp
    assert first.metrics == second.metrics
    beside = {evaluated(destroyed, tmp_path) for _ in range(2)}
    assert [place.name.startswith(f"{tmp_path.name}-") for place in beside] == [True]
    assert read_results(tmp_path) == second
    assert kept.stat().st_mtime_ns == stamp


def test_another_batch_size_is_the_same_suite_with_the_same_images(
    evaluated: Callable[..., Path], suite: Suite, tmp_path: Path
) -> None:
    """Forwards of other sizes round differently, which moves a pixel by 1 of 255 at most."""
    outs = []
    for batch_size in (64, 8):
        other = replace(suite, sampler=replace(suite.sampler, batch_size=batch_size))
        own = tmp_path / str(batch_size)
        outs.append(evaluated(destroyed, own / "out", suite=other, cache=own / "cache"))
    hashes = [read_results(out).suite["hash"] for out in outs]
    assert hashes[0] == hashes[1]
    assert [read_results(out).suite["sampler"]["batch_size"] for out in outs] == [64, 8]
    one, other = (sorted(out.parent.glob("**/images/*.png")) for out in outs)
    assert len(one) == len(other) == 2 * 36
    for paths in zip(one, other, strict=True):
        assert paths[0].relative_to(tmp_path / "64") == paths[1].relative_to(tmp_path / "8")
        pixels = [np.asarray(Image.open(path), dtype=np.int16) for path in paths]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1
    larger = replace(suite, sampler=replace(suite.sampler, batch_size=64))
    drawn = {path: path.stat().st_mtime_ns for path in other}
    assert evaluated(destroyed, outs[1], suite=larger, cache=outs[1].parent / "cache") == outs[1]  # nothing is drawn
    assert {path: path.stat().st_mtime_ns for path in other} == drawn


def test_an_artefact_on_disk(tiny_folder: Path, suite: Suite, scorers: Scorers, cache: Path, tmp_path: Path) -> None:
    """Everything that the evaluation needs to know stands in ``erasure.json``."""
    settings = {"steps": 2, "lr": 1e-3, "gradient_checkpointing": True}
    erase_concept(tiny_folder, "Van Gogh", out=tmp_path / "vg", device="cpu", quiet=True, **settings)
    options = Options(cache=cache, progress=False)
    page = evaluate([subject.describe(tmp_path / "vg")], suite, tmp_path / "report", options, scorers=scorers).report
    results = read_results(tmp_path / "report")
    model, cost = results.model("erased"), results.cost.models["erased"]
    assert model.card["method"] == "esd"
    assert model.card["base"]["id"] == model.base_name == str(tiny_folder)
    assert model.source == str(tmp_path / "vg")
    assert (model.target, model.names, model.kind) == (("Van Gogh",), ("Van_Gogh",), "style")
    assert cost.erasure["unet_backwards"] == cost.erasure["unet_recomputed"] == 2
    assert "<small>2 recomputed</small>" in page.read_text()
    assert cost.footprint["components"] == ["unet"]
    assert cost.storage_bytes > 1000
    assert {label: each.forwards_per_image for label, each in results.cost.models.items()} == {
        "base": 4,  # two steps, each with guidance
        "erased": 4,
    }
    layers = results.layers["erased"]
    moved = {name for name, change in layers["unet"].items() if change}
    assert moved
    assert all("attn2" in name for name in moved)
    assert set(layers["text_encoder"].values()) == {0}
    card = json.loads((tmp_path / "vg" / "erasure.json").read_text(encoding="utf-8"))
    card["base"]["hash"] = "0" * 64
    (tmp_path / "vg" / "erasure.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ValueError, match="name the right base"):
        subject.describe(tmp_path / "vg")


def test_an_object_target(tiny_pipe, tiny_folder: Path, suite: Suite, scorers: Scorers, tmp_path: Path) -> None:
    concept = Concept(target=("Cats",), kind="object")
    tested = subject.describe(tiny_pipe, concept=concept, base=str(tiny_folder))
    few = replace(suite, grid=replace(suite.grid, seeds=[1, 2]))
    evaluate([tested], few, tmp_path, Options(progress=False), scorers=scorers)
    results = read_results(tmp_path)
    assert results.metrics["ua"].values["erased"].n_images == 3 * 2
    assert {row.family for row in results.held_out} == {"alias", "paraphrase", "language", "two_object"}
    assert results.verdicts["erased"].code in ("not erased", "not measurable")


def test_what_cannot_be_evaluated_is_refused_before_anything_is_drawn(
    tiny_pipe, tiny_folder: Path, suite: Suite, scorers: Scorers, van_gogh: Concept, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no erasure.json that says what was erased from what"):
        subject.describe(tiny_folder)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        subject.describe(tmp_path / "nowhere")
    sepia = subject.describe(tiny_pipe, concept=Concept(target=("Sepia",)), base=tiny_pipe)
    with pytest.raises(ValueError, match="has no style 'Sepia'; it has Photo, Sketch, Van_Gogh"):
        evaluate([sepia], suite, tmp_path / "a", scorers=scorers)
    own = subject.describe(tiny_pipe, concept=van_gogh, base=tiny_pipe)
    with pytest.raises(ValueError, match="each needs a name of its own, and 'erased' is taken"):
        evaluate([own, own], suite, tmp_path / "a", scorers=scorers)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("version", [1, 3, None])
def test_a_report_of_an_earlier_version_is_refused_and_stays(
    evaluated: Callable[..., Path], tmp_path: Path, version: int | None
) -> None:
    old = json.dumps({"schema_version": version, "metrics": {}} if version else {"evaluations": {}})
    (tmp_path / "report.json").write_text(old)
    with pytest.raises(ValueError, match=rf"has the report format {version}, but 4 is read: move it away"):
        evaluated(nothing, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == old


def test_a_report_of_another_kind_of_suite_is_refused_and_stays(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    write_results(tmp_path, Results(kind="prompts", suite={}, models=[]))
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(ValueError, match="holds a report of prompt files, but the suite 'tiny' is one of a grid"):
        evaluated(nothing, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before


def exact(row: Row) -> tuple[str, str, str]:
    """What the prompt asks for."""
    return row.style, row.object, ""


def forgets_pair(row: Row) -> tuple[str, str, str]:
    """The pair becomes photos of cats, and one seed of four loses the style of other Van Gogh images."""
    if (row.style, row.object) == ("Van_Gogh", "Cats"):
        return "Photo", "Cats", ""
    return ("Sketch" if row.style == "Van_Gogh" and row.seed == 1 else row.style), row.object, ""


def test_a_planted_combination_becomes_a_report(planted: Any, tmp_path: Path) -> None:
    pair = Target("combination", ("Van_Gogh x Cats",))
    report = planted(tmp_path, (pair, {"base": exact, "erased": forgets_pair}))
    assert report.results.verdicts["erased"].code == "erased with damage"
    assert report.results.verdicts["erased"].facts["kept"] == 0.75
    page = render(tmp_path).read_text(encoding="utf-8")
    assert "Van_Gogh x Cats" in page
    for title in ("SC", "OC", "UP"):
        assert re.search(rf"<h3>{title} ", page)
    assert "| SC | 100.0 %" in (tmp_path / "report.md").read_text(encoding="utf-8")  # the base's, before the model's
    assert read_results(tmp_path) == report.results
