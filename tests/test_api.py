"""The public functions of ``erase`` that measure: light to import, the arguments of the commands, and only our eval."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import erase
from erase import api
from erase.canvas.judge import folder as judge_folder
from erase.cli.main import app


REPOSITORY = Path(erase.__file__).parents[1]
NAMES = ("evaluate", "attack", "generate", "read_scores")
# what only a terminal needs, and names that differ
ONLY_CLI = {"dry_run"}
OTHER_NAMES = {"eval": {"paths": "models"}, "attack": {"folder": "model"}, "generate": {"no_header": "header"}}


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_names_are_found_without_importing_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, erase; [getattr(erase, name) for name in erase.__all__]; "
        "heavy = [name for name in ('torch', 'diffusers', 'numpy', 'eval') if name in sys.modules]; "
        "print(heavy, set(erase.__all__) <= set(dir(erase)))"
    )
    assert python(code, tmp_path).stdout.strip() == "[] True"
    for name in NAMES:
        assert getattr(erase, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="module 'erase' has no attribute 'evaluate_all'"):
        erase.evaluate_all  # noqa: B018


@pytest.mark.parametrize(("command", "name"), [("eval", "evaluate"), ("attack", "attack"), ("generate", "generate")])
def test_a_function_takes_what_its_command_takes(command: str, name: str) -> None:
    options = {each.name: each for each in get_command(app).commands[command].params}
    renamed = OTHER_NAMES[command]
    parameters = inspect.signature(getattr(erase, name)).parameters
    assert {renamed.get(option, option) for option in options if option not in ONLY_CLI | {"help"}} == set(parameters)
    for option, each in options.items():
        parameter = parameters.get(renamed.get(option, option))
        if parameter is None or option == "no_header" or parameter.default is inspect.Parameter.empty:
            continue
        expected = None if each.default is None else each.default
        assert (parameter.default or None) == (expected or None), option


def test_every_parameter_is_explained() -> None:
    for name in NAMES:
        function = getattr(erase, name)
        text = inspect.getdoc(function)
        for parameter in inspect.signature(function).parameters:
            assert f"\n    {parameter}: " in text, (name, parameter)
        assert "Returns:" in text
        assert "Raises:" in text


@pytest.mark.parametrize("place", ["eval.py", "eval/__init__.py"])
@pytest.mark.parametrize("first", ["", "import eval; "])
def test_another_eval_is_named_in_one_sentence(tmp_path: Path, place: str, first: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    calls = ("evaluate('canvas')", "attack('canvas')", "generate('canvas', 'a.csv', 'o')", "read_scores('o')")
    for call in calls:
        done = python(f"{first}import erase; erase.{call}", tmp_path)  # -c puts the folder first, as a notebook does
        assert done.stderr.splitlines()[-1] == (
            f"ValueError: Python finds {tmp_path / place} under the name 'eval', which hides the package of erase that "
            "evaluates: rename it, or start Python in another folder."
        )


def test_a_folder_without_init_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    assert "FileNotFoundError" in python("import erase; erase.read_scores('o')", tmp_path).stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "eval"]


def test_a_missing_eval_is_said(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "erase", tmp_path / "erase", ignore=shutil.ignore_patterns("canvas", "__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-S", "-c", "import erase; erase.read_scores('o')"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == f"ValueError: The package eval is missing in {tmp_path}: reinstall erase."


def test_images_are_drawn_and_found_again(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt,seed\na dog,3\na fish,4\n")
    settings = {"num_inference_steps": 2, "device": "cpu", "quiet": True}
    out = erase.generate(tiny_folder, tmp_path / "prompts.csv", tmp_path / "images", **settings)
    assert out == tmp_path / "images"
    before = {path: path.stat().st_mtime_ns for path in sorted((out / "images").iterdir())}
    assert len(before) == 2
    assert erase.generate(str(tiny_folder), str(tmp_path / "prompts.csv"), str(out), **settings) == out
    assert {path: path.stat().st_mtime_ns for path in sorted((out / "images").iterdir())} == before
    assert erase.generate(tiny_folder, tmp_path / "prompts.csv", out, seeds=range(2), **settings) == out
    assert len(list((out / "images").iterdir())) == 6


@pytest.mark.skipif(not (judge_folder() / "card.json").exists(), reason="the canvas judge is not built")
def test_an_erasure_is_evaluated_and_attacked_and_its_scores_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = {"styles": ["Photo", "Van_Gogh"], "objects": ["Cats", "Dogs"], "seeds": [1, 2], "held_out": ""}
    suite = {"name": "few", "sampler": {"steps": 2}, "grid": grid, "scorers": {"judge": {}}, "resamples": 50}
    (tmp_path / "few.yaml").write_text(json.dumps(suite))
    erase.erase_concept(tiny_folder, "Van Gogh", steps=2, pool_size=4, out="vg", device="cpu", quiet=True)
    settings = {"suite": Path("few.yaml"), "device": "cpu", "quiet": True}
    attacked = erase.attack("vg", attack="seeds", tries=2, **settings)
    assert attacked.is_file()
    assert attacked.parent == Path("vg.seeds")
    report = erase.evaluate(Path("vg"), batch_size=3, **settings)
    assert report == Path("vg.eval/report.html")
    scores = erase.read_scores(report.parent)
    assert set(scores) == {"base", "vg"}
    assert len(scores["vg"].records) == 8
    with pytest.raises(ValueError, match="say what was erased from folders without"):
        erase.evaluate("vg", target="Van Gogh", **settings)
