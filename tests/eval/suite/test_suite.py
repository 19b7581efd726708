"""Suites: what a YAML file may hold, what it is refused for, and what overrides change."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from erase.concept import Concept
from eval.suite.grid import GridRows, Target
from eval.suite.prompt_files import PromptFiles
from eval.suite.suite import Sampler, Suite, load_suite


VAN_GOGH = Concept(target=("Van Gogh",), kind="style")
FLAT_GRID = """
name: old
version: 1
world: canvas
seeds: [1]
num_inference_steps: 20
guidance_scale: 5.0
batch_size: 40
judge: canvas
clip: canvas
aspects: [efficiency]
lpips: ""
"""
FLAT_FILES = """
name: old
prompts:
  - path: a.csv
    source: nowhere
scorers: [nudity, clip]
num_inference_steps: 50
explicit: true
threshold: 0.45
vlm: ""
"""


def grid(lines: str = "{}", *, scorers: str = "{judge: {}}", more: str = "") -> str:
    return f"name: x\ngrid: {lines}\nscorers: {scorers}\n{more}"


def test_a_file_sets_the_fields(write_suite: Callable[[str], str]) -> None:
    text = grid("{styles: [Photo, Sketch], seeds: [3]}", scorers="{judge: {tau: 0.6}}", more="sampler: {steps: 9}")
    suite = load_suite(write_suite(text))
    assert suite == Suite(
        name="x",
        sampler=Sampler(steps=9),
        grid=GridRows(styles=["Photo", "Sketch"], seeds=[3]),
        scorers={"judge": {"tau": 0.6}},
    )
    files = "prompts: {files: [{path: a.csv, source: nowhere, where: {tag: x}}], target: Cats, kind: object}"
    suite = load_suite(write_suite(f"name: y\n{files}\nscorers: {{clip: {{model: canvas}}}}"))
    assert suite.kind == "prompts"
    assert suite.prompts.files[0].where == {"tag": "x"}
    assert (suite.prompts.target, suite.prompts.kind) == ("Cats", "object")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (grid(more="steps: 3"), "steps in the suite .*mine.yaml: Key 'steps' not in 'Suite'"),
        (grid(more="sampler: {step: 3}"), "sampler.step in the suite .*: Key 'step' not in 'Sampler'"),
        (grid("{seeds: many}"), "grid.seeds in the suite .*: Invalid value"),
        (grid(scorers="[judge]"), r"mine\.yaml has a list where keys with values are expected"),
        (grid(more="metrics: {efficiency: 1}"), "or these where a list is: compare it with a suite in configs/suites"),
        ("name: x\ngrid: 5\nscorers: {clip: {}}", "A value in the suite .*: Merge error: int is not a subclass"),
        (grid(scorers="{judge: yes}"), "scorers.judge in the suite"),
        ("grid: {}\nscorers: {judge: {}}", "name in the suite .*missing mandatory value"),
        ("- 1\n", "does not hold settings"),
        ("name: [", "is not a readable YAML file"),
        ("name: x\nscorers: {clip: {}}", "has neither grid nor prompts: write exactly one"),
        (
            grid(more="prompts: {files: [{path: a.csv, source: b}]}"),
            "has both grid and prompts: write exactly one of them",
        ),
        ("name: x\nprompts: {files: [{path: a.csv}]}\nscorers: {clip: {}}", "prompts.files.*source.*missing mandatory"),
        ("name: x\nprompts: {}\nscorers: {clip: {}}", "has no prompt files: name at least one"),
        (grid(scorers="{}"), "has no scorers: name at least one"),
        (grid("{styles: [Photo, Baroque]}"), "'Baroque' in styles; the world has Photo"),
        (grid("{objects: [Unicorns]}"), "'Unicorns' in objects; the world has"),
        (grid("{seeds: []}"), "at least one seed"),
        (grid("{seeds: [3, 3]}"), "each once"),
        (grid("{neighbours: 0}"), "neighbours 0: at least 1"),
        (grid("{world: mars}"), "no world 'mars'; there are canvas, unlearncanvas"),
        (grid("{compat: true}"), "no published code to be compatible with"),
        (grid(more="resamples: 0"), "resamples 0: at least 1"),
        (grid(more="metrics: [efficiency, efficiency]"), "metrics .*: give each once"),
        (grid(more="sampler: {guidance_scale: .nan}"), "guidance_scale nan, but a number from 0"),
        (grid(more="sampler: {batch_size: 0}"), "batch_size 0, but a whole number from 1"),
        (grid(more="sampler: {height: 20}"), "height 20, but a multiple of 8"),
        (grid("{world: unlearncanvas, held_out: ''}"), "world unlearncanvas but the scorer judge, .* write timm_pair"),
        (
            grid("{world: unlearncanvas}", scorers="{timm_pair: {}, clip: {model: canvas}}"),
            "world unlearncanvas but the CLIP model canvas, which knows no other",
        ),
        (grid(scorers="{judge: {}, timm_pair: {}}"), "has the judges judge and timm_pair: choose one"),
        (grid(scorers="{judge: {}, vlm: {}}"), "has a grid but the scorer vlm, which is asked by prompt files only"),
        (
            "name: x\nprompts: {files: [{path: a.csv, source: b}]}\nscorers: {judge: {}}",
            "has prompt files but the scorer judge, which knows the styles and objects of a grid only",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(write_suite: Callable[[str], str], text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as refused:
        load_suite(write_suite(text))
    assert "\n" not in str(refused.value)


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="suites/canvas"):
        load_suite("cnavas")


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a/${name}", "${name}"])
def test_references_are_not_read(write_suite: Callable[[str], str], value: str) -> None:
    text = grid(scorers=f"{{judge: {{}}, lpips: {{backbone: '{value}'}}}}")
    with pytest.raises(ValueError, match=r"scorers.lpips.backbone in the suite .*: write the value itself instead of"):
        load_suite(write_suite(text))


def test_files_of_an_earlier_version_are_refused_with_where_keys_moved(write_suite: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml has keys of an earlier version: write ") as refused:
        load_suite(write_suite(FLAT_GRID))
    message = str(refused.value)
    for move in (
        "world -> grid.world",
        "seeds -> grid.seeds",
        "num_inference_steps -> sampler.steps",
        "guidance_scale -> sampler.guidance_scale",
        "batch_size -> sampler.batch_size",
        "judge -> scorers",
        "clip -> scorers.clip",
        "aspects -> metrics",
        "lpips -> scorers.lpips.backbone",
    ):
        assert move in message
    with pytest.raises(ValueError, match="has keys of an earlier version") as refused:
        load_suite(write_suite(FLAT_FILES))
    message = str(refused.value)
    for move in (
        "prompts -> prompts.files",
        "scorers -> scorers, as names with their settings",
        "num_inference_steps -> sampler.steps",
        "explicit -> prompts.explicit",
        "threshold -> scorers.nudity.threshold",
        "vlm -> scorers.vlm.model",
    ):
        assert move in message
    assert "grid" not in message


@pytest.mark.parametrize("name", ["steps", "batch_size", "height", "width"])
def test_a_sampler_needs_numbers_from_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"The sampler has {name} 0, but a whole number from 1 is expected"):
        Sampler(**{name: 0})


def test_checkpoints_of_the_judge_are_given_beside_the_file() -> None:
    pair = load_suite("unlearncanvas", judge_style="a.pth", judge_object="b.pth").scorers["timm_pair"]
    assert pair == {"architecture": "vit_large_patch16_224", "style": "a.pth", "object": "b.pth"}
    assert "object" not in load_suite("unlearncanvas", judge_style="a.pth").scorers["timm_pair"]
    with pytest.raises(ValueError, match="has no timm_pair among its scorers, but checkpoints of one are given"):
        load_suite("canvas", judge_style="a.pth")


def test_seeds_batch_size_and_compat_are_given_beside_the_file() -> None:
    suite = load_suite("unlearncanvas", seeds=(1, 2), batch_size=3, compat=True)
    assert (suite.grid.seeds, suite.grid.held_out_seeds) == ([1, 2], [1, 2])
    assert suite.sampler == replace(load_suite("unlearncanvas").sampler, batch_size=3)
    assert suite.grid.load_world().uncounted_styles == ("Seed_Images",)
    prompts = load_suite("hub", seeds=[5]).prompts
    assert (prompts.seeds, [file.seeds for file in prompts.files]) == ([5], [[]] * 6)
    with pytest.raises(ValueError, match="The world canvas has no published code to be compatible with; leave compat"):
        load_suite("canvas", compat=True)
    with pytest.raises(ValueError, match="no benchmark to be compatible with: leave compat out"):
        load_suite("coco", compat=True)


def test_rows_of_a_grid_need_a_target_and_those_of_prompt_files_an_aim(grid_suite: Suite, hub: PromptFiles) -> None:
    assert grid_suite.aim([VAN_GOGH]) is grid_suite
    assert len(grid_suite.rows(Target("style", ("Van_Gogh",)))) == 24 + 12
    with pytest.raises(ValueError, match="rows of the suite 'tiny' depend on what was erased: pass the target"):
        grid_suite.rows()
    suite = Suite(name="hub", prompts=hub, scorers={"vlm": {"model": ""}})
    aimed = suite.aim([VAN_GOGH])
    assert (aimed.prompts.target, aimed.prompts.kind) == ("Van Gogh", "style")
    assert aimed.rows() == hub.aim([VAN_GOGH]).rows()


@pytest.mark.parametrize(
    ("change", "scorers", "kinds", "is_explicit"),
    [
        ({}, {"clip": {}}, ["style"], False),
        ({}, {"nudity": {}}, ["style"], True),
        ({}, {"clip": {}}, ["style", "explicit"], True),
        ({"explicit": True}, {"clip": {}}, [], True),
        ({"kind": "explicit"}, {"clip": {}}, [], True),
    ],
)
def test_what_may_be_explicit(
    few: PromptFiles, change: dict[str, Any], scorers: dict[str, Any], kinds: list[str], is_explicit: bool
) -> None:
    suite = Suite(name="few", prompts=replace(few, **change), scorers=scorers)
    assert suite.is_explicit(kinds) is is_explicit


def test_a_suite_is_read_without_torch() -> None:
    code = (
        "import sys; from eval.suite.suite import load_suite; from eval.suite.grid import Target\n"
        "load_suite('canvas').rows(Target('style', ('Van_Gogh',)))\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
