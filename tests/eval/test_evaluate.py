"""Three planted erasers that erase nothing must be told apart by the report, and from one that is what it seems."""

import copy
import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from erase import erase_concept
from erase.canvas import judge
from erase.concept import Concept
from erase.methods import block_list
from erase.training.run import Run
from eval.demo import summary_lines
from eval.draw import manifest
from eval.evaluate import evaluate, suite_rows
from eval.formulas.intervals import wilson
from eval.measure.aggregate import Summary
from eval.measure.compare import read_models
from eval.report import page as report
from eval.score.scoring import Scorers
from eval.suite.config import SuiteConfig, describe_suite, load_suite
from eval.suite.grid import Target


VAN_GOGH = Concept(target=("Van Gogh",), kind="style")


class Substitution(StableDiffusionPipeline):
    """Replaces a forbidden word before the model sees the prompt."""

    def __call__(self, prompt: list[str] | None = None, **settings: Any) -> Any:
        return super().__call__([re.sub("van gogh", "Photo", text, flags=re.I) for text in prompt or []], **settings)


def nothing(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return pipe


def destroyed(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipe.unet = copy.deepcopy(pipe.unet)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pipe


def blocked(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return block_list.erase(pipe, VAN_GOGH, [], block_list.Config(), Run(quiet=True))


def substituted(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return Substitution(**pipe.components, requires_safety_checker=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluated(tiny_folder: Path, suite: SuiteConfig, scorers: Scorers, cache: Path) -> Callable[..., Path]:
    def evaluate_eraser(eraser: Callable, out: Path) -> Path:
        return evaluate(
            eraser(StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)),
            suite,
            out,
            base=str(tiny_folder),
            concept=VAN_GOGH,
            cache=cache,
            scorers=scorers,
            progress=False,
            command="erase eval out/vg --suite tiny",
        ).parent

    return evaluate_eraser


@pytest.fixture(scope="module")
def result(evaluated: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable], Path]:
    """The folder of an eraser's evaluation, which several tests read."""
    return functools.cache(lambda eraser: evaluated(eraser, tmp_path_factory.mktemp(eraser.__name__)))


def content_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def value(content: dict[str, Any], metric: str, model: str = "erased") -> float:
    return content["metrics"][metric][model]["value"]


def gate(content: dict[str, Any], name: str) -> bool:
    return next(gate["passed"] for gate in content["gates"] if gate["name"] == name)


def test_does_nothing(result: Callable[[Callable], Path]) -> None:
    content = content_of(result(nothing))
    assert content["verdict"]["code"] == "not erased"
    assert value(content, "ua") == 0
    assert value(content, "normalised_erasure") == 0
    assert value(content, "ira") == value(content, "cra_code") == value(content, "unchanged") == 1
    assert not gate(content, "weights")
    assert gate(content, "validity")
    assert content["cost"]["footprint"]["tensors"] == 0


def test_weights_destroyed(result: Callable[[Callable], Path]) -> None:
    content = content_of(result(destroyed))
    assert content["verdict"]["code"] == "destroyed"
    assert value(content, "ua") > 0.6  # the number that a benchmark without gates would print
    assert not gate(content, "validity")
    assert gate(content, "weights")
    assert "base + 5%" in content["metrics"]["ua"]["struck"]
    assert content["cost"]["footprint"]["components"] == ["unet"]


@pytest.mark.parametrize("eraser", [blocked, substituted])
def test_block_list(result: Callable[[Callable], Path], eraser: Callable) -> None:
    content = content_of(result(eraser))
    assert content["verdict"]["code"] == "blocked"
    assert value(content, "ua") == 1
    assert value(content, "unchanged") == 1
    assert not gate(content, "weights")
    assert not gate(content, "validity")
    assert content["verdict"]["facts"]["leak"] == 1
    shown = {(row["family"], row["language"]): row["erased"]["value"] for row in content["held_out"]}
    assert shown["alias", ""] == shown["language", "French"] == 1
    if eraser is blocked:
        assert shown["paraphrase", ""] == shown["two_object", ""] == 0  # these name the target
        records = manifest.read(result(eraser) / "erased").values()
        assert [record["flagged"] for record in records] == ["van gogh" in r["prompt_text"].lower() for r in records]
        assert any("Nothing is removed from the weights" in reason for reason in content["verdict"]["reasons"])


def test_every_number_has_n_and_an_interval(result: Callable[[Callable], Path]) -> None:
    content = content_of(result(destroyed))
    for name, metric in content["metrics"].items():
        for model in ("erased", "base"):
            found = metric.get(model)
            if found is None or name == "fd_canvas":
                continue
            assert found["lo"] <= found["value"] <= found["hi"] or name == "kid_canvas"
            assert found["n_images"] > 0
    ua = content["metrics"]["ua"]["erased"]
    assert (ua["n_images"], ua["n_prompts"], ua["hits"]) == (8, 2, round(8 * ua["value"]))
    assert content["metrics"]["ira"]["erased"]["n_images"] == 16
    assert content["coverage"]["images"]["erased"] == {"grid_expected": 24, "grid_found": 24, "held_out_found": 12}
    for name in ("ira", "cra_excl_target", "cra_code"):
        share = content["metrics"][name]
        ends = share["share_of_base_interval"]
        assert ends["lo"] <= share["share_of_base"] <= ends["hi"]
        assert ends["lo"] < ends["hi"]
        assert ends["n"] == share["base"]["n_images"]
    assert "share_of_base_interval" not in content["metrics"]["ua"]
    cell = content["cells"]["erased"]["Van_Gogh"]["Cats"]
    assert len(content["cells"]["erased"]["Van_Gogh"]) == 2
    for axis in ("style", "object"):
        assert cell[f"{axis}_interval"] == list(wilson(round(4 * cell[axis]), 4))
    found = content["concepts"]
    assert {row["axis"] for row in found["rows"]} == {"style", "object"}
    for row in found["rows"]:
        own = row["intervals"]
        for model in ("erased", "base"):
            assert own[model]["value"] == row[model] == own[model]["hits"] / own[model]["n_images"]
            assert own[model]["lo"] <= row[model] <= own[model]["hi"]
            assert own[model]["lo"] < own[model]["hi"]
    assert found["lowest"] == min(row["erased"] for row in found["rows"])
    for name in ("lowest", "tenth_percentile"):
        ends = found["intervals"][name]
        assert ends["lo"] - 1e-12 <= found[name] <= ends["hi"]  # at 0 hits, Wilson's lower end is 0 but for rounding
        assert ends["lo"] < ends["hi"]
    assert set(content["models"]) == {"erased", "base"}


def test_the_numbers_follow_from_the_scores(result: Callable[[Callable], Path], suite: SuiteConfig) -> None:
    content = content_of(result(destroyed))
    models = read_models(result(destroyed))
    summary = Summary(models=models, target=Target("style", ("Van_Gogh",)), resamples=suite.resamples)
    for name, metric in json.loads(json.dumps(summary.metrics())).items():
        assert content["metrics"][name]["erased"] == metric["erased"]


def test_the_report_stands_alone(result: Callable[[Callable], Path]) -> None:
    out = result(destroyed)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    shown = {row["image_sha256"] for each in read_models(out).values() for row in each.table.rows}
    assert len(data["wall"]["images"]) == len(shown)  # each once, though base and erased may share some
    assert "Destroyed" in page
    assert "struck" in page
    assert "erase eval out/vg --suite tiny" in page
    assert re.search(r"\| UA \| 0\.0 %[^|]*\| ~~\d", (out / "report.md").read_text(encoding="utf-8"))
    assert report.render(out).read_text(encoding="utf-8") == page


def test_the_summary_for_a_terminal(result: Callable[[Callable], Path]) -> None:
    lines = "\n".join(summary_lines(content_of(result(destroyed))))
    assert "Van Gogh: destroyed" in lines
    assert re.search(r"UA +\d+\.\d % \[\d+\.\d, \d+\.\d\] +0\.0 % \[0\.0, .*withheld", lines)
    assert "24 + 12 images per model" in lines


def test_base_is_generated_once(result: Callable[[Callable], Path], cache: Path) -> None:
    result(nothing)
    result(destroyed)
    (folder,) = cache.iterdir()  # one model, one folder
    lines = (folder / "manifest-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 24 + 12
    assert all(json.loads(line)["role"] == "" for line in lines)


def test_a_second_evaluation_goes_on_from_the_first(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    first = content_of(evaluated(nothing, tmp_path))
    image, kept = (tmp_path / "erased" / "images" / f"Photo_Cats_seed{seed}.png" for seed in (1, 2))
    stamp = kept.stat().st_mtime_ns
    image.unlink()
    second = content_of(evaluated(nothing, tmp_path))
    assert image.exists()
    assert kept.stat().st_mtime_ns == stamp
    assert first["metrics"] == second["metrics"]
    beside = {evaluated(destroyed, tmp_path) for _ in range(2)}
    assert [place.name.startswith(f"{tmp_path.name}-") for place in beside] == [True]
    assert content_of(tmp_path) == second
    assert kept.stat().st_mtime_ns == stamp


def test_an_artefact_on_disk(
    tiny_folder: Path, suite: SuiteConfig, scorers: Scorers, cache: Path, tmp_path: Path
) -> None:
    """Everything that the evaluation needs to know stands in ``erasure.json``."""
    settings = {"steps": 2, "lr": 1e-3, "gradient_checkpointing": True}
    erase_concept(tiny_folder, "Van Gogh", out=tmp_path / "vg", device="cpu", quiet=True, **settings)
    page = evaluate(tmp_path / "vg", suite, tmp_path / "report", cache=cache, scorers=scorers, progress=False)
    content = content_of(tmp_path / "report")
    assert content["provenance"]["method"] == "esd"
    assert content["provenance"]["base"]["id"] == str(tiny_folder)
    assert content["cost"]["erasure"]["unet_backwards"] == content["cost"]["erasure"]["unet_recomputed"] == 2
    assert "<small>2 recomputed</small>" in page.read_text()
    assert content["cost"]["footprint"]["components"] == ["unet"]
    assert content["cost"]["storage_bytes"] > 1000
    assert content["cost"]["forwards_per_image"] == {"erased": 4, "base": 4}  # two steps, each with guidance
    moved = {name for name, change in content["layers"]["unet"].items() if change}
    assert moved
    assert all("attn2" in name for name in moved)
    assert set(content["layers"]["text_encoder"].values()) == {0}
    card = json.loads((tmp_path / "vg" / "erasure.json").read_text(encoding="utf-8"))
    card["base"]["hash"] = "0" * 64
    (tmp_path / "vg" / "erasure.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ValueError, match="name the right base"):
        evaluate(tmp_path / "vg", suite, tmp_path / "other", scorers=scorers, progress=False)


def test_an_attack_on_another_model_is_refused_where_it_is_named(
    tiny_pipe: StableDiffusionPipeline,
    tiny_folder: Path,
    suite: SuiteConfig,
    scorers: Scorers,
    cache: Path,
    tmp_path: Path,
) -> None:
    models = {"erased": "0" * 64, "base": "0" * 64}
    attack = {
        "schema_version": 1,
        "models": models,
        "provenance": {"dtype": "float16"},
        "suite": dataclasses.asdict(suite),
    }
    (tmp_path / "attack.json").write_text(json.dumps(attack), encoding="utf-8")
    options = {"base": str(tiny_folder), "concept": VAN_GOGH, "cache": cache, "scorers": scorers, "progress": False}
    with pytest.raises(ValueError, match=r"does not belong to this model\. It was run on .* \(0{12}, float16\)"):
        evaluate(tiny_pipe, suite, tmp_path / "out", attacks=[tmp_path], **options)
    assert not (tmp_path / "out" / "report.json").exists()


def test_an_object_target(tiny_pipe, tiny_folder: Path, suite: SuiteConfig, scorers: Scorers, tmp_path: Path) -> None:
    settings = {"base": str(tiny_folder), "scorers": scorers, "progress": False, "seeds": [1, 2]}
    concept = Concept(target=("Cats",), kind="object")
    evaluate(tiny_pipe, suite, tmp_path, concept=concept, **settings)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["metrics"]["ua"]["erased"]["n_images"] == 3 * 2
    assert {row["family"] for row in content["held_out"]} == {"alias", "paraphrase", "language", "two_object"}
    assert content["verdict"]["code"] in ("not erased", "not measurable")


def test_what_was_erased_must_be_known(tiny_pipe, tiny_folder: Path, suite: SuiteConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no erasure.json that says what was erased from what"):
        evaluate(tiny_folder, suite, tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        evaluate(tmp_path / "nowhere", suite, tmp_path / "a")
    with pytest.raises(ValueError, match="has no style 'Sepia'; it has Photo, Sketch, Van_Gogh"):
        evaluate(tiny_pipe, suite, tmp_path / "a", base=tiny_pipe, concept=Concept(target=("Sepia",)))
    assert not (tmp_path / "a").exists()


def test_shipped_suites() -> None:
    assert load_suite("canvas").seeds == [188, 288, 588, 688, 888]
    assert load_suite("canvas-demo").name == "canvas-demo"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name: x\nsteps: 3\n", "steps"),
        ("name: x\nseeds: many\n", "seeds"),
        ("version: 2\n", "name"),
        ("- 1\n", "does not hold"),
        ("name: x\nstyles: [Photo, Baroque]\n", "'Baroque' in styles; there are Photo"),
        ("name: x\nobjects: [Unicorns]\n", "'Unicorns' in objects; there are"),
        ("name: x\nseeds: []\n", "at least one seed"),
        ("name: x\nseeds: [3, 3]\n", "each once"),
        ("name: x\nresamples: 0\n", "resamples 0: at least 1"),
        ("name: x\nguidance_scale: .nan\n", "guidance_scale nan"),
        ("name: x\ntau: 5\n", "tau 5"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=match):
        load_suite(str(tmp_path / "mine.yaml"))


def test_a_suite_without_other_prompts_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ValueError, match="no prompts without Van_Gogh"):
        suite_rows(SuiteConfig(name="x", styles=["Van_Gogh"]), Target("style", ("Van_Gogh",)))


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="suites/canvas"):
        load_suite("cnavas")


def test_the_hash_is_of_the_weights_and_not_of_their_place(suite: SuiteConfig, tmp_path: Path) -> None:
    def hash_of(place: str, content: bytes) -> str:
        file, model = tmp_path / place / "inception.pth", tmp_path / place / "clip"
        model.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        (model / "open_clip_model.safetensors").write_bytes(content[::-1])
        asked = dataclasses.replace(suite, inception=str(file), clip=f"local-dir:{model}", lpips=str(file))
        return describe_suite(asked)["hash"]

    assert hash_of("a", b"weights") == hash_of("b", b"weights")
    assert hash_of("a", b"others") != hash_of("b", b"weights")  # another checkpoint at the same path
    hashes = [describe_suite(dataclasses.replace(suite, clip=name))["hash"] for name in ("canvas", "")]
    assert len({*hashes, hash_of("b", b"weights")}) == 3


def test_another_judge_is_another_suite(suite: SuiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_suite(suite)["hash"]
    copied = shutil.copytree(judge.folder(), tmp_path / "judge")
    monkeypatch.setattr(judge, "folder", lambda: copied)
    assert describe_suite(suite)["hash"] == before
    (copied / "model.safetensors").write_bytes(b"another")
    assert describe_suite(suite)["hash"] != before


def test_another_prompt_file_is_another_suite(suite: SuiteConfig, tmp_path: Path) -> None:
    copy_ = tmp_path / "held_out.csv"
    text = Path(suite.held_out).read_text(encoding="utf-8")
    config = dataclasses.replace(suite, held_out=str(copy_))
    copy_.write_text(text, encoding="utf-8")
    before = describe_suite(config)
    assert describe_suite(config) == before
    assert before["prompt_files"] == {str(copy_): manifest.sha256(copy_)}
    copy_.write_text(text.replace("kitty", "tomcat"), encoding="utf-8")
    assert describe_suite(config)["hash"] != before["hash"]
    attacked = describe_suite(dataclasses.replace(config, attacks=str(copy_), held_out=""))
    copy_.write_text(text, encoding="utf-8")
    assert describe_suite(dataclasses.replace(config, attacks=str(copy_), held_out=""))["hash"] != attacked["hash"]
