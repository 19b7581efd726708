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


pytestmark = pytest.mark.skipif(not (judge_folder() / "card.json").exists(), reason="the canvas judge is not built")
REPOSITORY = Path(__file__).parents[2]
LINE = r"Report: {}/report.html, in [\d.]+ s, [\d.]+% of it outside UNet, VAE and scorers; loading took [\d.]+ s\n"
SUITE = """
name: few
styles: [Photo, Van_Gogh]
objects: [Cats, Dogs]
seeds: [1, 2]
held_out: ""
num_inference_steps: 2
clip: ""
resamples: 50
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a suite, two artefacts of one target, in either form, and a plain diffusers folder."""
    place = tmp_path_factory.mktemp("several")
    (place / "few.yaml").write_text(SUITE)
    shutil.copytree(tiny_folder, place / "tiny")
    for name, form, lr in (("vg", "pipeline", 1e-3), ("small", "delta", 3e-3)):
        erase_concept(
            place / "tiny",
            "Van Gogh",
            out=place / name,
            save=form,
            device="cpu",
            quiet=True,
            steps=2,
            lr=lr,
            pool_size=4,
        )
    return place


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["eval", *arguments, "--suite", "few.yaml", "--quiet", "--device", "cpu"])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_several_models_of_any_form(call: Callable, place: Path) -> None:
    code, out, err = call(
        "vg", "small", "tiny", "--target", "Van Gogh", "--base-model", str(place / "tiny"), "--out", "both"
    )
    assert code == 0, err
    assert re.fullmatch(LINE.format("both"), out)
    content = json.loads(Path("both/report.json").read_text())
    assert [column["label"] for column in content["comparison"]["columns"]] == ["base", "vg", "small", "tiny"]
    assert content["verdicts"]["tiny"]["facts"]["same_weights"]
    for name in ("vg", "small", "tiny"):
        assert (Path("both") / name / "scores.jsonl").exists()
        own = json.loads((Path("both") / name / "report.json").read_text())
        assert own["label"] == name
    moved = json.loads(Path("both/small/report.json").read_text())["layers"]["unet"]
    assert any(moved.values())
    (reference,) = Path("both/reference").iterdir()  # base was drawn once
    assert len(list((reference / "images").iterdir())) == 2 * 2 * 2
    assert (
        "erase eval vg small tiny --suite few.yaml --target &#39;Van Gogh&#39;" in Path("both/report.html").read_text()
    )
    assert content["reproduce"].endswith("--dtype float32")  # the images depend on it


def test_images_of_another_model_or_sampler_stay_and_all_goes_beside(
    call: Callable, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert call("vg", "--out", "one")[0] == 0
    # images of the first model where those of the second would go
    taken = place / "taken" / "small" / "erased"
    shutil.copytree(place / "one" / "erased", taken)
    before = {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()}
    code, planned, err = call("vg", "small", "--out", "taken", "--dry-run")
    assert code == 0, err
    (beside,) = re.findall(r"^folder: +(taken-[0-9a-f]{8})$", planned, re.MULTILINE)
    assert not Path(beside).exists()
    caplog.clear()
    code, out, err = call("vg", "small", "--out", "taken")
    assert code == 0, err
    assert re.fullmatch(LINE.format(beside), out)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "eval.draw.placement"]
    assert told.startswith("taken holds in small/erased images made with model_hash '")
    assert told.endswith(f", so these go into {beside}.")
    drawn = {path: path.stat().st_mtime_ns for path in place.glob("taken*/**/images/*.png")}
    assert call("vg", "small", "--out", "taken")[1].startswith(f"Report: {beside}/")
    assert {path: path.stat().st_mtime_ns for path in place.glob("taken*/**/images/*.png")} == drawn
    assert {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()} == before
    # base is shared by all settings, in folders named by theirs
    assert sorted(path.name for path in (place / "taken").iterdir()) == ["reference", "small"]
    # and another precision has a folder of its own
    code, out, err = call("vg", "--out", "one", "--dtype", "bfloat16")
    assert code == 0, err
    (other,) = place.glob("one-*")
    assert out.startswith(f"Report: {other.name}/report.html")
    settings = [json.loads((folder / "erased" / "settings.json").read_text()) for folder in (place / "one", other)]
    assert [each["dtype"] for each in settings] == ["float32", "bfloat16"]
    assert len(list((place / "one" / "reference").iterdir())) == 2


def test_an_output_that_holds_something_else_is_found_before_anything_is_drawn(call: Callable, place: Path) -> None:
    assert call("vg", "--out", "single")[0] == 0
    before = (place / "single" / "report.json").read_bytes()
    code, out, err = call("vg", "small", "--out", "single")
    assert (code, out) == (2, "")
    assert "The output single holds a report of one model, where one of several models would be written" in err
    assert (place / "single" / "report.json").read_bytes() == before
    assert not (place / "single" / "vg").exists()
    (place / "file").write_text("mine")
    (place / "half").mkdir()
    (place / "half" / "small").write_text("mine")
    for out_, message in (("file", "The output file is a file"), ("half", "The output half/small is a file")):
        code, _, err = call("vg", "small", "--out", out_)
        assert code == 2
        assert message in err
    assert [path.name for path in (place / "half").iterdir()] == ["small"]
    (place / "many").mkdir()
    (place / "many" / "report.json").write_text(json.dumps({"evaluations": {}}))
    code, _, err = call("vg", "--out", "many")
    assert code == 2
    assert "The output many holds a report of several models, where one of one model would be written" in err


def test_attacks_that_were_run_on_a_model_stand_in_its_report(call: Callable, place: Path) -> None:
    """Those beside it by themselves, others by name, and none that was run on other weights."""
    flags = ["--attack", "seeds", "--suite", "few.yaml", "--tries", "2", "--quiet", "--device", "cpu"]
    for model, out in (("vg", "vg.seeds"), ("small", "elsewhere")):
        with pytest.raises(SystemExit) as stopped:
            main(["attack", model, "--out", out, *flags])
        assert stopped.value.code == 0
    shutil.copytree(place / "vg.seeds", place / "small.seeds")  # of other weights, but beside this model
    code, _, err = call("vg", "--attacks", "elsewhere", "--out", "refused")
    assert code == 2
    assert "The attack in elsewhere was run on a model of other weights" in err
    code, _, err = call("vg", "--attacks", "nowhere", "--dry-run")
    assert code == 2
    assert "nowhere/attack.json does not exist" in err
    assert not (place / "refused").exists()
    code, _, err = call("vg", "small", "--attacks", "elsewhere", "--out", "attacked")
    assert code == 0, err
    content = json.loads((place / "attacked" / "report.json").read_text())
    found = {label: {run["folder"]: run for run in runs} for label, runs in content["searched"].items()}
    assert {label: sorted(runs) for label, runs in found.items()} == {
        "vg": ["vg.seeds"],
        "small": ["elsewhere", "small.seeds"],
    }
    attack = json.loads((place / "vg.seeds" / "attack.json").read_text())
    totals = {arm["name"]: arm["total"] for arm in found["vg"]["vg.seeds"]["arms"]}
    assert totals["seeds"] == attack["results"]["attack"]["asr_total"]
    assert totals["no attack"]["n"] == 2
    assert not found["vg"]["vg.seeds"]["is_foreign"]
    assert "other weights" in found["small"]["small.seeds"]["struck"]
    assert not found["small"]["elsewhere"]["is_foreign"]
    assert "--attacks elsewhere" in content["reproduce"]
    (place / "small.seeds" / "attack.json").write_text("{")
    code, _, err = call("vg", "small", "--out", "damaged")
    assert code == 2
    assert "small.seeds/attack.json is not JSON" in err
    assert not (place / "damaged").exists()
    for name in ("vg.seeds", "small.seeds", "elsewhere"):
        shutil.rmtree(place / name)


def scores_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of all models without what they took."""
    lines = (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "wall_s"} for line in lines]


def test_base_is_scored_once_and_a_second_evaluation_scores_nothing(call: Callable, place: Path) -> None:
    assert call("vg", "small", "--out", "scored")[0] == 0
    kept = {path: path.read_bytes() for path in (place / "scored").rglob("scores/*.jsonl")}
    assert sorted(path.parts[-4] for path in kept) == ["reference", "small", "vg"]
    for content in kept.values():
        hashes = [json.loads(line)["image_sha256"] for line in content.splitlines()]
        assert len(hashes) == len(set(hashes)) == 2 * 2 * 2
    found = {name: scores_of(place / "scored" / name) for name in ("vg", "small")}
    asked = 0

    def count(module: nn.Module, *_: object) -> None:
        nonlocal asked
        asked += isinstance(module, Judge)

    hook = register_module_forward_hook(count)
    try:
        assert call("vg", "small", "--out", "scored")[0] == 0
        assert asked == 0
        shutil.rmtree(place / "scored" / "vg" / "erased" / "scores")
        assert call("vg", "small", "--out", "scored")[0] == 0
        assert asked == 1
    finally:
        hook.remove()
    assert {name: scores_of(place / "scored" / name) for name in ("vg", "small")} == found
    assert {path: path.read_bytes() for path in (place / "scored").rglob("scores/*.jsonl")} == kept


@pytest.mark.slow
def test_two_processes_report_what_one_does(call: Callable, place: Path) -> None:
    assert call("vg", "small", "--out", "alone")[0] == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "erase"]
    command = [*torchrun, "eval", "vg", "small", "--suite", "few.yaml", "--quiet", "--device", "cpu", "--out", "shared"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LINE.format("shared"), done.stdout)  # one process speaks
    for name in ("vg", "small"):
        drawn = [
            len((place / "shared" / name / "erased" / f"manifest-{rank}.jsonl").read_text().splitlines())
            for rank in (0, 1)
        ]
        assert drawn == [4, 4]
        assert scores_of(place / "shared" / name) == scores_of(place / "alone" / name)
        one, two = (json.loads((place / out / name / "report.json").read_text()) for out in ("alone", "shared"))
        assert two["metrics"] == one["metrics"]
    assert len(list((place / "shared").rglob("scores/*.jsonl"))) == 3


@pytest.mark.slow
def test_an_evaluation_of_the_canvas_spends_at_most_a_twentieth_outside_forwards(tmp_path: Path, capsys) -> None:
    suite = tmp_path / "few.yaml"
    grid = {"styles": ["Photo", "Van_Gogh"], "objects": ["Cats", "Dogs", "Birds"], "seeds": [*range(7)]}
    suite.write_text(json.dumps({"name": "few", **grid, "held_out": "", "num_inference_steps": 20, "resamples": 1000}))
    erase_concept("canvas", "Van Gogh", method="uce", out=tmp_path / "erased", device="cpu", quiet=True)
    capsys.readouterr()
    command = ["eval", str(tmp_path / "erased"), "--suite", str(suite), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--device", "cpu"])
    assert stopped.value.code == 0
    spent = json.loads((tmp_path / "out" / "report.json").read_text())["cost"]["evaluation"]
    assert spent["outside"] <= 0.05, spent
    assert f"{spent['outside']:.1%} of it outside UNet, VAE and scorers" in capsys.readouterr().out


def test_one_model_goes_where_it_went(call: Callable) -> None:
    code, out, err = call("vg")
    assert code == 0, err
    assert re.fullmatch(LINE.format("vg.eval"), out)
    assert "evaluations" not in json.loads(Path("vg.eval/report.json").read_text())


def test_models_of_different_targets(call: Callable, place: Path) -> None:
    shutil.copytree(place / "tiny", place / "cats", dirs_exist_ok=True)
    flags = ("--target", "Cats", "--kind", "object", "--base-model", str(place / "tiny"))
    code, _, err = call("vg", "cats", *flags, "--out", "mixed")
    assert code == 0, err
    compared = json.loads(Path("mixed/report.json").read_text())["comparison"]
    assert [group["target"] for group in compared["groups"]] == [["Van Gogh"], ["Cats"]]
    assert {pair["paired"] for pair in compared["differences"]} == {True, False}


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
    content = json.loads((place / "steps/report.json").read_text())
    found = content["sequence"]
    assert [request["names"] for request in found["requests"]] == [["Van_Gogh"], ["Cats"]]
    assert [[cell is not None for cell in row] for row in found["ua"]] == [[True, False], [True, True]]
    alone = json.loads((place / "steps/vg/report.json").read_text())["metrics"]["ua"]["erased"]
    assert (found["ua"][0][0]["value"], found["ua"][0][0]["n"]) == (alone["value"], alone["n_images"])
    assert found["rebound"][1][0]["value"] == found["ua"][0][0]["value"] - found["ua"][1][0]["value"]
    assert content["reproduce"].endswith(" --sequence")
    page, text = ((place / "steps" / name).read_text() for name in ("report.html", "report.md"))
    assert "Erased one after another" in page
    assert "| UA after (and rebound) | Van Gogh | Cats | retained |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vg", "small"], "The step small erases nothing that the steps before it have not"),
        (["vg"], "name two or more"),
    ],
)
def test_what_is_no_sequence_costs_no_image(call: Callable, place: Path, arguments: list[str], message: str) -> None:
    code, _, err = call(*arguments, "--sequence", "--out", "none")
    assert (code, message in err) == (2, True), err
    assert not (place / "none").exists()


@pytest.mark.parametrize("kind", [{"curves": {}}, {"evaluations": {}}])
def test_a_report_of_another_kind_is_not_overwritten(call: Callable, place: Path, kind: dict[str, Any]) -> None:
    report = place / "other" / "report.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps(kind))
    code, _, err = call("vg", "--out", "other")
    assert code == 2
    assert "holds a report of" in err
    assert json.loads(report.read_text()) == kind


def test_the_plan_counts_the_gold_model_s_images(tmp_path: Path, capsys) -> None:
    suite = tmp_path / "few.yaml"
    suite.write_text(SUITE.replace("seeds: [1, 2]", "seeds: [1]"))
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
