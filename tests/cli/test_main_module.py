"""``python -m erase`` in folders that hold modules of the user's own with the names of ours."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[2]
PACKAGES = sysconfig.get_path("purelib")
# reads the prompt file, for which it imports eval, before it looks for a model
NEEDS_EVAL = ["generate", "canvas", "--prompts", "none.csv", "--out", "o"]
REFUSAL = "erase: 'none.csv' is neither a file nor among the shipped prompts"


@pytest.fixture(params=["eval.py", "eval/__init__.py", "eval/mine.txt"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / request.param).parent.mkdir(exist_ok=True)
    (tmp_path / request.param).write_text("raise RuntimeError('the eval of the user was imported')\n")
    return tmp_path


def python(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_or_folder_eval_of_the_user_does_not_take_the_place_of_ours(folder: Path) -> None:
    light = python("-m", "erase", "methods", folder=folder)
    assert (light.returncode, light.stderr) == (0, "")
    assert "esd\n" in light.stdout
    done = python("-m", "erase", *NEEDS_EVAL, folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(REFUSAL)
    assert done.stderr.count("\n") == 1


def test_the_processes_of_torchrun_do_not_see_it_either(tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text("raise RuntimeError('the eval of the user was imported')\n")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "erase"]
    done = python(*torchrun, *NEEDS_EVAL, folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count(REFUSAL) >= 1  # torchrun stops the other process as soon as one has ended
    assert "the eval of the user" not in done.stderr
    assert "is not a package" not in done.stderr


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_safe_path_is_left_as_it_is(tmp_path: Path, safe: str) -> None:
    (tmp_path / "eval.py").write_text("raise RuntimeError('the eval of the user was imported')\n")
    (tmp_path / "typer.py").write_text("raise RuntimeError('the typer of the user was imported')\n")
    done = python("-m", "erase", *NEEDS_EVAL, folder=tmp_path, PYTHONSAFEPATH=safe)
    assert done.stderr.startswith(REFUSAL)


def test_a_clone_that_is_not_installed_runs_from_its_own_folder() -> None:
    # without site, the editable installation is not found: only the folder makes erase importable
    where = python("-S", "-m", "erase", "--version", folder=REPOSITORY.parent, PYTHONPATH=PACKAGES)
    assert "No module named erase" in where.stderr
    done = python("-S", "-m", "erase", *NEEDS_EVAL, folder=REPOSITORY, PYTHONPATH=PACKAGES)
    assert done.stderr.startswith(REFUSAL)


@pytest.mark.parametrize("command", [NEEDS_EVAL, ["eval", "canvas"], ["attack", "canvas"], ["demo"]])
def test_where_another_eval_is_found_first_the_command_says_so_in_one_sentence(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "eval.py").write_text("raise RuntimeError('the eval of the user was imported')\n")
    done = python(
        "-m", "erase", *command, folder=tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path / "first"), str(REPOSITORY)])
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"erase: Python finds {tmp_path / 'first' / 'eval.py'} under the name 'eval', which hides the package of erase "
        "that evaluates: rename it, or start Python in another folder.\n"
    )
