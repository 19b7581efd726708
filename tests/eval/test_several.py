"""``erase eval`` with several models, as it is typed: tiny random pipelines, the judge of the canvas."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from erase import erase_concept
from erase.canvas.judge import Judge
from erase.canvas.judge import folder as judge_folder
from erase.cli.main import main
from eval.attack.record import read_record
from eval.results import read_results
from eval.score.table import read_scores


pytestmark = pytest.mark.skipif(not (judge_folder() / "card.json").exists(), reason="the canvas judge is not built")
REPOSITORY = Path(__file__).parents[2]
LINE = r"Report: {}/report.html, in [\d.]+ s, [\d.]+% of it outside UNet, VAE and scorers; loading took [\d.]+ s\n"
GRID = {"styles": ["Photo", "Van_Gogh"], "objects": ["Cats", "Dogs"], "seeds": [1, 2], "held_out": ""}
SUITE = {"name": "few", "sampler": {"steps": 2}, "grid": GRID, "scorers": {"judge": {}}, "resamples": 50}
IMAGES = 2 * 2 * 2  # of a model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a suite, two artefacts of one target, in either form, and a plain diffusers folder."""
    place = tmp_path_factory.mktemp("several")
    (place / "few.yaml").write_text(json.dumps(SUITE))
    shutil.copytree(tiny_folder, place / "tiny")
    quick = {"device": "cpu", "quiet": True, "steps": 2, "pool_size": 4}
    for name, form, lr in (("vg", "pipeline", 1e-3), ("small", "delta", 3e-3)):
        erase_concept(place / "tiny", "Van Gogh", out=place / name, save=form, lr=lr, **quick)
    return place


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["eval", *arguments, "--suite", "few.yaml", "--quiet", "--device", "cpu"])
        return stopped.value.code, *capsys.readouterr()

    return run


def stamps(folder: Path, pattern: str = "**/images/*.png") -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_several_models_of_any_form(call: Callable, place: Path) -> None:
    code, out, err = call(
        "vg", "small", "tiny", "--target", "Van Gogh", "--base-model", str(place / "tiny"), "--out", "both"
    )
    assert code == 0, err
    assert re.fullmatch(LINE.format("both"), out)
    results = read_results(Path("both"))
    assert [model.label for model in results.models] == ["base", "vg", "small", "tiny"]
    assert results.verdicts["tiny"].facts["same_weights"]
    assert {path.name for path in Path("both").iterdir()} == {
        *("vg", "small", "tiny", "reference"),
        *("report.json", "report.html", "report.md", "scores.jsonl", "features.safetensors"),
    }
    for name in ("vg", "small", "tiny"):
        assert results.model(name).folder == name
        assert len(list(Path("both", name, "images").iterdir())) == IMAGES
    assert any(results.layers["small"]["unet"].values())
    (reference,) = Path("both/reference").iterdir()  # base was drawn once
    assert results.model("base").folder == f"reference/{reference.name}"
    assert len(list((reference / "images").iterdir())) == IMAGES
    page = Path("both/report.html").read_text()
    assert "erase eval vg small tiny --suite few.yaml --target &#39;Van Gogh&#39;" in page
    assert results.reproduce.endswith("--dtype float32")  # the images depend on it


def test_one_model_goes_beside_its_folder_and_has_its_name(call: Callable) -> None:
    code, out, err = call("vg")
    assert code == 0, err
    assert re.fullmatch(LINE.format("vg.eval"), out)
    assert [model.label for model in read_results(Path("vg.eval")).models] == ["base", "vg"]
    assert len(list(Path("vg.eval/vg/images").iterdir())) == IMAGES


def test_a_model_joins_those_that_were_evaluated(call: Callable, place: Path) -> None:
    assert call("vg", "--out", "joined")[0] == 0
    drawn = stamps(place / "joined")
    code, out, err = call("vg", "small", "--out", "joined")
    assert code == 0, err
    assert re.fullmatch(LINE.format("joined"), out)
    assert [model.label for model in read_results(place / "joined").models] == ["base", "vg", "small"]
    after = stamps(place / "joined")
    assert {path: after[path] for path in drawn} == drawn
    assert {path.parent.parent.name for path in after.keys() - drawn.keys()} == {"small"}


def test_images_of_another_model_or_sampler_stay_and_all_goes_beside(
    call: Callable, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert call("vg", "--out", "one")[0] == 0
    # images of the first model where those of the second would go
    taken = place / "taken" / "small"
    shutil.copytree(place / "one" / "vg", taken)
    before = {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()}
    code, planned, err = call("vg", "small", "--out", "taken", "--dry-run")
    assert code == 0, err
    (beside,) = re.findall(r"^folder: +(taken-[0-9a-f]{8})$", planned, re.MULTILINE)
    assert not Path(beside).exists()
    caplog.clear()
    code, out, err = call("vg", "small", "--out", "taken")
    assert code == 0, err
    assert re.fullmatch(LINE.format(beside), out)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "eval.draw.placement"]
    assert message.startswith("taken holds in small images made with model_hash '")
    assert message.endswith(f", so these go into {beside}.")
    drawn = stamps(place, "taken*/**/images/*.png")
    assert call("vg", "small", "--out", "taken")[1].startswith(f"Report: {beside}/")
    assert stamps(place, "taken*/**/images/*.png") == drawn
    assert {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()} == before
    # base is shared by all settings, in folders named by theirs
    assert sorted(path.name for path in (place / "taken").iterdir()) == ["reference", "small"]
    # and another precision has a folder of its own
    code, out, err = call("vg", "--out", "one", "--dtype", "bfloat16")
    assert code == 0, err
    (other,) = place.glob("one-*")
    assert out.startswith(f"Report: {other.name}/report.html")
    settings = [json.loads((folder / "vg" / "settings.json").read_text()) for folder in (place / "one", other)]
    assert [each["dtype"] for each in settings] == ["float32", "bfloat16"]
    assert len(list((place / "one" / "reference").iterdir())) == 2


def test_a_file_in_the_place_of_a_folder_is_found_before_anything_is_drawn(call: Callable, place: Path) -> None:
    (place / "file").write_text("mine")
    (place / "half").mkdir()
    (place / "half" / "small").write_text("mine")
    for out, message in (("file", "The output file is a file"), ("half", "The output half/small is a file")):
        code, _, err = call("vg", "small", "--out", out)
        assert code == 2
        assert message in err
    assert [path.name for path in (place / "half").iterdir()] == ["small"]


@pytest.mark.parametrize("content", [{"schema_version": 1, "metrics": {}}, {"schema_version": 3, "evaluations": {}}])
def test_a_report_of_an_earlier_version_is_not_overwritten(
    call: Callable, place: Path, content: dict[str, Any]
) -> None:
    report = place / "other" / "report.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps(content))
    code, _, err = call("vg", "--out", "other")
    assert code == 2
    assert f"has the report format {content['schema_version']}, but 4 is read" in err
    assert err.count("\n") == 1
    assert json.loads(report.read_text()) == content
    assert [path.name for path in report.parent.iterdir()] == ["report.json"]


def test_attacks_that_were_run_on_a_model_stand_in_its_report(call: Callable, place: Path) -> None:
    """Those beside it by themselves, others by name, and none that was run on other weights."""
    flags = ["--attack", "seeds", "--suite", "few.yaml", "--tries", "2", "--quiet", "--device", "cpu"]
    for model, out in (("vg", "vg.seeds"), ("small", "elsewhere")):
        with pytest.raises(SystemExit) as stopped:
            main(["attack", model, "--out", out, *flags])
        assert stopped.value.code == 0
    shutil.copytree(place / "vg.seeds", place / "small.seeds")  # of other weights, but beside this model
    try:
        _check_attacks(call, place)
    finally:
        for name in ("vg.seeds", "small.seeds", "elsewhere"):
            shutil.rmtree(place / name)


def _check_attacks(call: Callable, place: Path) -> None:
    code, _, err = call("vg", "--attacks", "elsewhere", "--out", "refused")
    assert code == 2
    assert "The attack in elsewhere was run on a model of other weights" in err
    code, _, err = call("vg", "--attacks", "nowhere", "--dry-run")
    assert code == 2
    assert "nowhere/attack.json does not exist" in err
    assert not (place / "refused").exists()
    code, _, err = call("vg", "small", "--attacks", "elsewhere", "--out", "attacked")
    assert code == 0, err
    results = read_results(place / "attacked")
    searched = {(run.label, run.folder): run for run in results.searched}
    assert sorted(searched) == [("small", "elsewhere"), ("small", "small.seeds"), ("vg", "vg.seeds")]
    attack = read_record(place / "vg.seeds").outcome.results.attack
    totals = {arm.name: arm.total for arm in searched["vg", "vg.seeds"].arms}
    assert totals["seeds"].hits == attack.asr_total.hits
    assert totals["no attack"].n == 2
    assert not searched["vg", "vg.seeds"].is_foreign
    assert "other weights" in searched["small", "small.seeds"].struck
    assert not searched["small", "elsewhere"].is_foreign
    assert "--attacks elsewhere" in results.reproduce
    (place / "small.seeds" / "attack.json").write_text("{")
    code, _, err = call("vg", "small", "--out", "damaged")
    assert code == 2
    assert "small.seeds/attack.json is not JSON" in err
    assert not (place / "damaged").exists()


def scores_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of all models without what they took."""
    scores = read_scores(folder)
    return {label: [row | {"wall_s": None} for row in each.records.rows] for label, each in scores.items()}


def test_base_is_scored_once_and_a_second_evaluation_scores_nothing(call: Callable, place: Path) -> None:
    """One judge for all models: each image goes through it once, whatever the number of models."""
    asked = []

    def count(module: nn.Module, inputs: tuple[Any, ...], _output: object) -> None:
        if isinstance(module, Judge):
            asked.append(len(inputs[0]))

    hook = register_module_forward_hook(count)
    try:
        assert call("vg", "small", "--out", "scored")[0] == 0
        assert asked == [IMAGES] * 3  # base and both models, in one batch each
        kept = {path: path.read_bytes() for path in (place / "scored").rglob("scores/judge-*.jsonl")}
        assert sorted(path.parts[len(place.parts) + 1] for path in kept) == ["reference", "small", "vg"]
        for content in kept.values():
            hashes = [json.loads(line)["image_sha256"] for line in content.splitlines()]
            assert len(hashes) == len(set(hashes)) == IMAGES
        scores = scores_of(place / "scored")
        asked.clear()
        assert call("vg", "small", "--out", "scored")[0] == 0
        assert asked == []
        shutil.rmtree(place / "scored" / "vg" / "scores")
        assert call("vg", "small", "--out", "scored")[0] == 0
        assert asked == [IMAGES]
    finally:
        hook.remove()
    assert scores_of(place / "scored") == scores
    assert {path: path.read_bytes() for path in (place / "scored").rglob("scores/judge-*.jsonl")} == kept


def test_a_cache_shares_the_base_between_evaluations(call: Callable, place: Path) -> None:
    for name in ("vg", "small"):
        assert call(name, "--out", f"cached-{name}", "--cache", "cache", "--batch-size", "3")[0] == 0
        assert [path.name for path in (place / f"cached-{name}").iterdir() if path.is_dir()] == [name]
    (base,) = (place / "cache").iterdir()
    lines = (base / "manifest-0.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == IMAGES
    results = read_results(place / "cached-small")
    assert results.model("base").folder == f"../cache/{base.name}"
    assert results.suite["sampler"]["batch_size"] == 3


@pytest.mark.slow
def test_two_processes_report_what_one_does(call: Callable, place: Path) -> None:
    flags = ["vg", "small", "--batch-size", "1"]  # forwards of other sizes round differently
    assert call(*flags, "--out", "alone")[0] == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "erase"]
    command = [*torchrun, "eval", *flags, "--suite", "few.yaml", "--quiet", "--device", "cpu", "--out", "shared"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LINE.format("shared"), done.stdout)  # one process speaks
    for name in ("vg", "small"):
        drawn = [len((place / "shared" / name / f"manifest-{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)]
        assert drawn == [4, 4]
    assert scores_of(place / "shared") == scores_of(place / "alone")
    one, two = (read_results(place / out) for out in ("alone", "shared"))
    assert two.metrics == one.metrics
    assert len(list((place / "shared").rglob("scores/judge-*.jsonl"))) == 3


@pytest.mark.slow
def test_an_evaluation_of_the_canvas_spends_at_most_a_twentieth_outside_forwards(tmp_path: Path, capsys) -> None:
    suite = tmp_path / "few.yaml"
    grid = GRID | {"objects": ["Cats", "Dogs", "Birds"], "seeds": [*range(7)]}
    clip = {"judge": {}, "clip": {"model": "canvas"}}
    own = {"name": "few", "sampler": {"steps": 20}, "grid": grid, "scorers": clip, "resamples": 1000}
    suite.write_text(json.dumps(own))
    erase_concept("canvas", "Van Gogh", method="uce", out=tmp_path / "erased", device="cpu", quiet=True)
    capsys.readouterr()
    command = ["eval", str(tmp_path / "erased"), "--suite", str(suite), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--device", "cpu"])
    assert stopped.value.code == 0
    spent = read_results(tmp_path / "out").cost.evaluation
    assert spent["outside"] <= 0.05, spent
    assert f"{spent['outside']:.1%} of it outside UNet, VAE and scorers" in capsys.readouterr().out


def test_models_of_different_targets(call: Callable, place: Path) -> None:
    shutil.copytree(place / "tiny", place / "cats", dirs_exist_ok=True)
    flags = ("--target", "Cats", "--kind", "object", "--base-model", str(place / "tiny"))
    code, _, err = call("vg", "cats", *flags, "--out", "mixed")
    assert code == 0, err
    results = read_results(place / "mixed")
    assert [(model.label, model.group, model.base) for model in results.models] == [
        ("base (Van Gogh)", 0, ""),
        ("vg", 0, "base (Van Gogh)"),
        ("base (Cats)", 1, ""),
        ("cats", 1, "base (Cats)"),
    ]
    assert [model.names for model in results.erased] == [("Van_Gogh",), ("Cats",)]
    assert {pair.paired for pair in results.differences} == {True, False}
    assert len(list((place / "mixed/reference").iterdir())) == 1  # rows of one base are the same for both targets


def test_trainings_with_other_seeds_are_taken_together(call: Callable, place: Path) -> None:
    for seed in (0, 1):
        quick = {"device": "cpu", "quiet": True, "steps": 2, "lr": 1e-3, "pool_size": 4}
        erase_concept(place / "tiny", "Cats", kind="object", out=place / f"seed{seed}", seed=seed, **quick)
    assert call("seed0", "seed1", "--out", "seeds")[0] == 0
    (spread,) = read_results(place / "seeds").over_seeds
    assert (spread.labels, spread.seeds) == (("seed0", "seed1"), (0, 1))
    assert spread.metrics["ira"].n == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vg", "nowhere"], "nowhere does not exist"),
        (["vg", "tiny"], "tiny has no erasure.json that says what was erased from what"),
        (["vg", "vg"], "Two of the models would be called"),
        (["vg", "--target", "Cats"], "every folder here has one: leave them out"),
        (["tiny", "--kind", "object"], "no --target is given"),
        (["tiny", "--target", "Sepia", "--base-model", "tiny"], "has no style 'Sepia'"),
        (["vg", "--base-model", "canvas"], "name the right base"),
        (["canvas"], "has no erasure.json"),
        (["vg", "--attacks", "nowhere"], "nowhere/attack.json does not exist; give the folder"),
        (["vg", "nobody/nothing"], "neither a folder on this machine nor a hub model"),
        (["vg", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_a_mistake_costs_no_image(call: Callable, arguments: list[str], message: str) -> None:
    code, out, err = call(*arguments, "--out", "nothing")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("nothing").exists()


def test_a_sequence_of_erasures(call: Callable, place: Path) -> None:
    quick = {"device": "cpu", "quiet": True, "steps": 2, "lr": 1e-3, "pool_size": 4}
    erase_concept(place / "vg", "Cats", kind="object", out=place / "vg-cats", **quick)
    assert call("vg", "vg-cats", "--sequence", "--out", "steps")[0] == 0
    results = read_results(place / "steps")
    steps = results.sequence
    assert (steps.labels, steps.requests) == (("vg", "vg-cats"), ("Van Gogh", "Cats"))
    assert [[cell is not None for cell in row] for row in steps.ua] == [[True, False], [True, True]]
    alone = results.metrics["ua"].values["vg"]
    assert (steps.ua[0][0].value, steps.ua[0][0].n_images) == (alone.value, alone.n_images)
    assert steps.rebound[1][0].value == steps.ua[0][0].value - steps.ua[1][0].value
    assert results.reproduce.endswith(" --sequence")
    page, text = ((place / "steps" / name).read_text() for name in ("report.html", "report.md"))
    assert "Erased one after another" in page
    assert "| UA after | Van Gogh | Cats | retained |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vg", "small"], "The step small erases nothing that the steps before it have not"),
        (["vg"], "name two or more"),
    ],
)
def test_other_models_are_no_sequence_and_cost_no_image(
    call: Callable, place: Path, arguments: list[str], message: str
) -> None:
    code, _, err = call(*arguments, "--sequence", "--out", "none")
    assert (code, message in err) == (2, True), err
    assert not (place / "none").exists()


def test_the_plan_counts_the_gold_model_s_images(tmp_path: Path, capsys) -> None:
    suite = tmp_path / "few.yaml"
    suite.write_text(json.dumps(SUITE | {"grid": GRID | {"seeds": [1]}}))
    erase_concept("canvas", "Van Gogh", method="uce", out=tmp_path / "erased", device="cpu", quiet=True)
    command = ["eval", str(tmp_path / "erased"), "--suite", str(suite), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--dry-run"])
    assert stopped.value.code == 0
    planned = capsys.readouterr().out
    assert "gold without Van_Gogh (canvas)" in planned
    assert "12 images to draw" in planned
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    assert len(list((tmp_path / "out").rglob("images/*.png"))) == 12
    results = read_results(tmp_path / "out")
    assert [model.role for model in results.models] == ["base", "gold", "erased"]
    assert results.cost.models["gold"].images == 4
