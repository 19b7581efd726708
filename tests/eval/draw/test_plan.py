"""A plan counts at once and without torch, and prices the batches that would be drawn."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from erase.model import base_model
from erase.plan import time_forward
from eval.draw.counts import Counts, Part
from eval.draw.plan import Job, count, describe, describe_time
from eval.draw.price import LARGE_BATCH_SECONDS, ForwardClock
from eval.models.saved import find_saved
from eval.suite.grid import GridRows
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.rows import Row
from eval.suite.suite import Sampler, Suite


REPOSITORY = Path(__file__).parents[3]
ROWS = [Row(prompt_id=f"p{number}", prompt="a cat", seed=number) for number in range(10)]
SAMPLER = Sampler(steps=4, guidance_scale=5.0, batch_size=4)
SECONDS = 2.0  # of a process that counts: it takes 0.3 s, and importing torch and diffusers alone takes 3 s
PRINT = """
import sys
from erase.cli.main import main

class Watched:
    def write(self, text):
        for line in filter(None, text.splitlines()):
            sys.__stdout__.write(f"{'torch' in sys.modules}|{line}\\n")

    def flush(self):
        sys.__stdout__.flush()

sys.stdout = Watched()
main(sys.argv[1:])
"""
COUNT = """
import sys
from pathlib import Path
from eval.draw.plan import Job, describe
from eval.draw.placement import Drawing, holds_images
from eval.draw.prompt_plan import make_plan
from eval.draw.prompt_set import Config
from eval.models import subject
from eval.suite.grid import find_target
from eval.suite.suite import load_suite

prompts = make_plan(Config(model="canvas", prompts="canvas_retain", out=Path("none")))
suite, tested = load_suite("canvas"), subject.describe(Path(sys.argv[1]))
rows = suite.rows(find_target(tested.concept.target, tested.concept.kind, suite.grid.load_world()))
assert not holds_images(Path("none"), [Drawing(tested.label, tested, rows)])
jobs = [Job("base", tested.base_name, rows, Path("none")), Job(tested.label, tested.name, rows, Path("none"))]
counts = next(describe(suite, jobs, out=Path("none"), device="auto", dtype="float32", scorer_lines=["judge"]))
assert "torch" not in sys.modules and "diffusers" not in sys.modules and "accelerate" not in sys.modules
print(prompts.images, prompts.forwards)
print(counts)
"""


def start(code: str, *arguments: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """A record of a delta on the canvas; a plan reads nothing else of it."""
    card = {"schema_version": 1, "form": "delta", "method": "uce", "config": {}, "seed": 0, "dtype": "float32"}
    card |= {"concept": {"target": ["Van Gogh"], "anchor": "", "kind": "style"}, "cost": None, "files": {}}
    card |= {"base": base_model.identity("canvas")}
    (tmp_path / "vg").mkdir()
    (tmp_path / "vg" / "erasure.json").write_text(json.dumps(card))
    return tmp_path / "vg"


def test_the_counts_are_printed_before_torch_is_imported(tmp_path: Path) -> None:
    command = ["generate", "canvas", "--prompts", "canvas_retain", "--out", "o", "--device", "cpu", "--dry-run"]
    lines = [line.split("|") for line in start(PRINT, *command, cwd=tmp_path).splitlines()]
    assert [text.partition(":")[0] for _, text in lines] == ["folder", "images", "UNet forwards", "disk", "time"]
    assert [is_imported for is_imported, _ in lines] == ["False"] * 4 + ["True"]


def test_an_evaluation_prints_its_counts_before_torch_is_imported(artefact: Path, tmp_path: Path) -> None:
    command = ["eval", str(artefact), "--suite", "canvas-demo", "--device", "cpu", "--dry-run"]
    lines = [line.split("|", 1) for line in start(PRINT, *command, cwd=tmp_path).splitlines()]
    assert lines[-1][1].startswith("time:           about ")
    assert [is_imported for is_imported, _ in lines] == ["False"] * (len(lines) - 1) + ["True"]


def test_a_process_that_counts_takes_two_seconds_at_most(tmp_path: Path, artefact: Path) -> None:
    before = time.perf_counter()
    printed = start(COUNT, str(artefact), cwd=tmp_path)
    assert time.perf_counter() - before < SECONDS
    assert printed.startswith("120 12000\nsuite:          canvas ")
    assert printed.count("of which 0 are there") == 2


def test_an_evaluation_is_described_for_both_kinds_of_suite(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("prompt\na cat\n")
    file = PromptFile(path=str(tmp_path / "few.csv"), source="this test")
    suites = [
        Suite(name="few", prompts=PromptFiles(files=[file]), sampler=SAMPLER, scorers={"clip": {}}),
        Suite(
            name="grid", grid=GridRows(styles=["Photo", "Sketch"], seeds=[1]), sampler=SAMPLER, scorers={"judge": {}}
        ),
    ]
    asked = ["10 images for each model", "2 styles x 12 objects x 1 seeds = 24 images of the grid for each model"]
    jobs = [Job(label, str(tiny_folder), ROWS, tmp_path / "o" / label) for label in ("base", "small")]
    for suite, words in zip(suites, asked, strict=True):
        given = {"out": tmp_path / "o", "device": "cpu", "dtype": "float32", "scorer_lines": ["clip", "vlm (not run)"]}
        counts, seconds = describe(suite, jobs, **given)
        assert (
            f"suite:          {suite.name} 1: {words}\nfolder:         {tmp_path / 'o'}\n\nbase ({tiny_folder})"
            in counts
        )
        assert counts.endswith(
            "all:            20 images to draw, 160 UNet forwards\nscorers:        clip\n                vlm (not run)"
        )
        assert seconds.startswith("time:           about ")
        assert "by the UNet alone (base " in seconds


@pytest.mark.parametrize(("changes", "message"), [({"dtype": "float"}, "dtype 'float'"), ({"device": "gpu"}, "'gpu'")])
def test_nothing_is_printed_for_an_unknown_device_or_dtype(changes: dict, message: str, tmp_path: Path) -> None:
    suite = Suite(name="grid", grid=GridRows(), scorers={"judge": {}})
    given = {"out": tmp_path, "device": "cpu", "dtype": "float32", "scorer_lines": []} | changes
    with pytest.raises(ValueError, match=message):
        next(describe(suite, [Job("base", "canvas", ROWS, tmp_path)], **given))


def test_calls_are_those_of_the_batches(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [*ROWS, *(replace(row, prompt_id=f"q{row.seed}", guidance_scale=1.0) for row in ROWS[:5])]
    counts = count(str(tiny_folder), rows, tmp_path, SAMPLER)
    # with guidance 4 + 4 + 2 rows, without it 4 + 1, each in four steps
    assert counts.calls == {8: 2 * 4, 4: 4 + 4, 1: 4}
    assert counts.forwards == 4 * (2 * 10 + 5)
    assert count(str(tiny_folder), rows, tmp_path, replace(SAMPLER, height=32)).pixels == 2.0


def test_a_batch_is_priced_as_a_batch(tiny_folder: Path) -> None:
    unet = find_saved(str(tiny_folder)).unet()
    clock = ForwardClock(device="cpu", dtype="float32", measured={(unet, 1): 1.0, (unet, 8): 2.4})
    counts = Counts(images=10, done=0, forwards=1, calls={8: 3, 1: 2, 4: 1})
    assert clock.price(str(tiny_folder), counts) == pytest.approx(3 * 2.4 + 2 * 1.0 + 1.6)
    assert clock.price(str(tiny_folder), replace(counts, pixels=4.0)) == pytest.approx(4 * 10.8)
    assert clock.price(str(tiny_folder), replace(counts, calls={})) == 0


def test_a_batch_that_would_take_long_is_priced_by_the_largest_that_does_not(tiny_folder: Path) -> None:
    unet = find_saved(str(tiny_folder)).unet()
    single = LARGE_BATCH_SECONDS / 4
    clock = ForwardClock(device="cpu", dtype="float32", measured={(unet, 1): single, (unet, 4): 6.0})
    assert clock.price(str(tiny_folder), Counts(images=9, done=0, forwards=1, calls={16: 1})) == pytest.approx(24.0)


def test_the_price_is_near_the_time_of_the_batches(tiny_folder: Path) -> None:
    clock = ForwardClock(device="cpu", dtype="float32")
    seconds = clock.price(str(tiny_folder), Counts(images=9, done=0, forwards=1, calls={16: 10}))
    measured = time_forward(tiny_folder, device="cpu", dtype="float32", samples=16)
    assert seconds == pytest.approx(10 * measured, rel=0.8)
    assert len(clock.measured) == 2


def test_nothing_left_to_draw_takes_no_time() -> None:
    part = Part("", "nobody/nothing", Counts(images=3, done=3, forwards=0))
    assert describe_time([part], device="cpu", dtype="float32") == "time:           none, because all images are there"
