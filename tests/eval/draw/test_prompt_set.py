"""A prompt file becomes images: rows and guidance of the file, plans, refusals, kills, and shares of two processes."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import (
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch.nn.modules.module import register_module_forward_hook

import erase
from erase.cli.main import main
from eval.draw import manifest
from eval.draw.prompt_images import run
from eval.draw.prompt_plan import describe, make_plan
from eval.draw.prompt_set import Config, read_set
from eval.files import sha256
from eval.models import clock
from eval.suite.suite import Sampler


REPOSITORY = Path(__file__).parents[3]
CSV = ",case_number,prompt,evaluation_seed,evaluation_guidance,artist\n0,007,a cat,5,7,Monet\n1,008,a dog,6,1,Monet\n"
CSV += "2,009,a fox,,,X\n"
QUICK = ["--num-inference-steps", "2", "--quiet"]


def sampler(**changes: object) -> Sampler:
    return Sampler(**{"steps": 2, "guidance_scale": None, "batch_size": 32} | changes)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(CSV)
    return path


@pytest.fixture
def settings(tiny_folder: Path, prompts: Path, tmp_path: Path) -> dict:
    return {"model": str(tiny_folder), "prompts": str(prompts), "out": tmp_path / "o", "sampler": sampler()}


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def go(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return go


def records(folder: Path) -> list[dict]:
    """The merged manifest without what it took."""
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [{k: v for k, v in json.loads(line).items() if k not in ("wall_s", "peak_mem")} for line in lines]


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder, and when it was written; what each command writes anew from the others is left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.jsonl")
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_seeds_guidance_and_columns_of_the_file_are_used_and_kept(settings, tmp_path):
    run(Config(**settings), progress=False)
    lines = records(tmp_path / "o")
    assert [(each["key"], each["seed"], each["cfg"], each["columns"]) for each in lines] == [
        ("007_seed5", 5, 7.0, {"artist": "Monet"}),
        ("008_seed6", 6, 1.0, {"artist": "Monet"}),
        ("009_seed0", 0, 7.5, {"artist": "X"}),
    ]


def test_given_seeds_and_guidance_take_their_place(settings, tmp_path):
    run(Config(**settings | {"seeds": [1, 3], "sampler": sampler(guidance_scale=2.0)}), progress=False)
    lines = records(tmp_path / "o")
    assert [(each["prompt_id"], each["seed"]) for each in lines] == [
        (name, seed) for name in ("007", "008", "009") for seed in (1, 3)
    ]
    assert {each["cfg"] for each in lines} == {2.0}


def test_rows_of_one_guidance_share_their_forwards(settings):
    sizes: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple, _: object) -> None:
        if isinstance(module, UNet2DConditionModel):
            sizes.append(len(inputs[0]))

    rows = [f"{n},a cat {n},{7 if n % 2 else 1}" for n in range(6)]
    Path(settings["prompts"]).write_text("\n".join(["id,prompt,evaluation_guidance", *rows]))
    hook = register_module_forward_hook(note)
    try:
        run(Config(**settings | {"sampler": sampler(batch_size=3)}), progress=False)
    finally:
        hook.remove()
    assert sizes == [3, 3, 6, 6]  # without guidance and with it, two steps each


def test_an_image_with_its_own_guidance_is_that_of_a_user(settings, tiny_folder, tmp_path):
    run(Config(**settings), progress=False)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    for prompt, seed, scale in (("a cat", 5, 7.0), ("a dog", 6, 1.0)):
        generator = torch.Generator().manual_seed(seed)
        image = pipe(prompt, num_inference_steps=2, guidance_scale=scale, generator=generator).images[0]
        image.save(tmp_path / "user.png")
        name = {"a cat": "007_seed5.png", "a dog": "008_seed6.png"}[prompt]
        assert (tmp_path / "user.png").read_bytes() == images(tmp_path / "o")[name]


def test_columns_that_an_evaluation_knows_go_where_it_looks(settings):
    Path(settings["prompts"]).write_text("prompt,style,object,family,source\na cat,Van_Gogh,Cats,alias,mine\n")
    (row,) = read_set(Config(**settings)).rows
    assert (row.style, row.object, row.family, row.columns) == ("Van_Gogh", "Cats", "alias", {"source": "mine"})


def test_a_plan_counts_and_does_nothing(call, settings, prompts, tiny_folder, tmp_path):
    arguments = ["generate", tiny_folder, "--prompts", prompts, "--out", "o", *QUICK]
    code, out, err = call(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    assert re.search(r"^images: +3, of which 0 are there$", out, re.MULTILINE)
    assert re.search(r"^UNet forwards: +10 samples$", out, re.MULTILINE)  # 2 steps of 2 + 1 + 2 samples
    assert re.search(r"^disk: +at most [\d.]+ MB$", out, re.MULTILINE)
    assert re.search(r"^time: +about .* on \w+ in one process", out, re.MULTILINE)
    assert re.search(r"^folder: +o$", out, re.MULTILINE)
    assert not (tmp_path / "o").exists()
    plan = make_plan(Config(**settings))
    code, out, _ = call(*arguments)
    assert code == 0
    pattern = r"3 images, 3 of them new, in [\d.]+ s, [\d.]+% of it outside denoiser and VAE; loading took [\d.]+ s\n"
    pattern += r"Saved: o\n"
    assert re.fullmatch(pattern, out)
    written = sum(path.stat().st_size for path in (tmp_path / "o").rglob("*") if path.is_file())
    assert written <= plan.disk_bytes
    plan = make_plan(Config(**settings, seeds=[5, 6]))
    assert (plan.images, plan.done, plan.forwards) == (6, 2, 2 * (2 + 1 + 4))


def test_the_plan_counts_the_forwards_that_the_sampler_makes(settings, tiny_pipe, tmp_path):
    tiny_pipe.scheduler = PNDMScheduler.from_config(tiny_pipe.scheduler.config, skip_prk_steps=True)
    tiny_pipe.save_pretrained(tmp_path / "pndm")
    plan = make_plan(Config(**settings | {"model": str(tmp_path / "pndm"), "sampler": sampler(steps=4)}))
    assert plan.forwards == 5 * (2 + 1 + 2)


def test_a_plan_for_a_model_that_is_not_here_says_so(settings):
    config = Config(**settings | {"model": "nobody/nothing"})
    assert make_plan(config).images == 3
    assert "\n".join(describe(config)).count("unknown until the model is on this machine") == 3


def test_a_plan_counts_what_was_drawn_by_a_model_that_is_not_here(settings):
    for scale in (None, 3.0):
        config = Config(**settings | {"out": settings["out"] / str(scale), "sampler": sampler(guidance_scale=scale)})
        run(config, progress=False)
        assert make_plan(replace(config, model="nobody/nothing")).done == 3


@pytest.mark.parametrize("method", ["uce", "unguide"])
def test_artefacts_of_every_form_are_drawn_as_they_load(call, method, tiny_folder, prompts, tmp_path):
    (tmp_path / "retain.csv").write_text("prompt\na house\n")
    small = {"steps": 4, "num_inference_steps": 4, "refresh": 2, "lr": 3e-2, "generation_steps": 8, "observe_steps": 2}
    small |= {"calibration_samples": 4, "quantile": 0.01}  # random weights tell no prompts apart
    quick = {"uce": [], "unguide": [f"params.{name}={value}" for name, value in small.items()]}
    command = ["--method", method, "--target", "Cats", "--anchor", "Dogs", "--kind", "object", "--retain", "retain.csv"]
    assert call("run", *command, "--base-model", tiny_folder, "--out", "m", "--quiet", *quick[method])[0] == 0
    forms = ["m"]
    if method == "uce":
        assert call("export", "m", "--out", "small", "--format", "delta")[0] == 0
        forms.append("small")
    drawn = []
    for form in forms:
        plan = make_plan(Config(model=form, prompts=str(prompts), out=Path("none"), sampler=sampler()))
        assert plan.forwards == 10
        assert plan.is_guided_twice is (method == "unguide")
        assert call("generate", form, "--prompts", prompts, "--out", f"of-{form}", *QUICK)[0] == 0
        drawn.append(images(tmp_path / f"of-{form}"))
    assert all(each == drawn[0] for each in drawn)
    pipe = erase.load_erased("m")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a cat", num_inference_steps=2, guidance_scale=7.0, generator=torch.Generator().manual_seed(5)).images[
        0
    ]
    image.save(tmp_path / "user.png")
    assert (tmp_path / "user.png").read_bytes() == drawn[0]["007_seed5.png"]


def test_sdxl_and_a_list_without_a_header(call, tiny_pipe_xl: StableDiffusionXLPipeline, tmp_path):
    tiny_pipe_xl.save_pretrained(tmp_path / "xl")
    (tmp_path / "hub.csv").write_text('a cat, sitting\n"a dog"\n')
    command = ["generate", "xl", "--prompts", "hub.csv", "--no-header", "--seeds", "0-1", "--out", "o", *QUICK]
    assert "not estimated for this model family" in call(*command, "--dry-run")[1]
    assert call(*command)[0] == 0
    assert [each["prompt_text"] for each in records(tmp_path / "o")] == ["a cat, sitting"] * 2 + ["a dog"] * 2


REFUSED = {
    "no prompt file": ({"--prompts": "none.csv"}, "'none.csv' is neither a file nor among the shipped prompts"),
    "no model": ({"PATH": "./none"}, "'./none' does not exist"),
    "another kind of pipeline": ({"PATH": "img2img"}, "is a StableDiffusionImg2ImgPipeline, but images are drawn with"),
    "seeds": ({"--seeds": "4-0"}, "runs backwards"),
    "guidance": ({"--guidance-scale": "-1"}, "guidance_scale -1.0, but a number from 0 is expected"),
    "steps": ({"--num-inference-steps": "0"}, "steps 0, but a whole number from 1"),
    "batch": ({"--batch-size": "0"}, "batch_size 0, but"),
    "height": ({"--height": "63"}, "height 63, but a multiple of 8 is expected"),
    "device": ({"--device": "gpu"}, "The device 'gpu' is unknown"),
    "dtype": ({"--dtype": "float"}, "The dtype 'float' is unknown"),
    "an id that is no file name": ({"--prompts": "id.csv"}, "The prompt id 'a b' is used as a file name"),
    "a file as output": ({"--out": "id.csv"}, "The output id.csv exists and is not a folder"),
    "a folder with other things": ({"--out": "img2img"}, "img2img holds something other than the images of a prompt"),
}


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence_and_nothing_is_written(case, dry, call, tiny_pipe, tiny_folder, prompts, tmp_path):
    StableDiffusionImg2ImgPipeline(**tiny_pipe.components, requires_safety_checker=False).save_pretrained("img2img")
    (tmp_path / "id.csv").write_text("id,prompt\na b,a cat\n")
    changes, message = REFUSED[case]
    options = {"--prompts": str(prompts), "--out": "o"} | {name: v for name, v in changes.items() if name != "PATH"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    flags = [word for option in options.items() for word in option]
    code, out, err = call("generate", changes.get("PATH", tiny_folder), *flags, *(["--dry-run"] if dry else []))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": sampler(steps=3)}, "images made with steps 2 instead of 3"),
        (
            {"sampler": sampler(guidance_scale=3.0)},
            "of other prompts, with the guidance_scale 7.0 instead of 3.0 in row '007'",
        ),
        ({"sampler": sampler(negative_prompt="blurred")}, "negative_prompt '' instead of 'blurred'"),
        ({"dtype": "bfloat16"}, "dtype 'float32' instead of 'bfloat16'"),
        ({"sampler": sampler(height=32)}, "height 16 instead of 32"),
        ({"model": "moved"}, "images made with model_hash"),
        ({"prompts": "changed.csv"}, "the prompt 'a dog' instead of 'two dogs' in row '008'"),
        ({"prompts": "label.csv"}, "the columns {'artist': 'X'} instead of {'artist': 'Y'} in row '009'"),
        ({"prompts": "longer.csv"}, "3 prompts instead of 4"),
    ],
)
def test_changed_prompts_and_settings_go_beside(settings, changes, message, tiny_pipe, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Path("changed.csv").write_text(CSV.replace("a dog", "two dogs"))
    Path("label.csv").write_text(CSV.replace(",X", ",Y"))
    Path("longer.csv").write_text(CSV + "3,010,a hen,7,,X\n")
    with torch.no_grad():
        tiny_pipe.unet.conv_out.weight.add_(0.1)
    tiny_pipe.save_pretrained("moved")
    run(Config(**settings), progress=False)
    before = contents(tmp_path / "o")
    changed = Config(**settings | changes)
    planned = make_plan(changed)
    caplog.clear()
    generation = run(changed, progress=False)
    assert re.fullmatch(r"o-[0-9a-f]{8}", generation.out.name)
    assert (generation.out.parent, str(generation.out)) == (tmp_path, planned.folder)
    assert generation.new == generation.images == planned.images
    assert planned.done == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "eval.draw.placement"]
    assert message in warning
    assert warning.endswith(f", so these go into {generation.out}.")
    own = contents(generation.out)
    again = run(changed, progress=False)
    assert (again.out, again.new) == (generation.out, 0)
    assert make_plan(changed).done == generation.images
    assert contents(generation.out) == own
    assert contents(tmp_path / "o") == before
    first = run(Config(**settings), progress=False)
    assert (first.out, first.images, first.new) == (tmp_path / "o", 3, 0)


def test_each_setting_has_a_folder_and_more_seeds_stay_in_it(settings, tmp_path):
    run(Config(**settings), progress=False)
    three, four = (Config(**settings | {"sampler": sampler(steps=steps)}, seeds=[0]) for steps in (3, 4))
    outs = [run(config, progress=False).out for config in (three, four)]
    assert len({tmp_path / "o", *outs}) == 3
    more = run(replace(three, seeds=[0, 1]), progress=False)
    assert (more.out, more.images, more.new) == (outs[0], 6, 3)


@pytest.mark.parametrize("out", ["o", "o/", "./o", "sub/../o", "."])
def test_the_folder_beside_has_one_name_however_the_output_is_written(call, tiny_folder, prompts, tmp_path, out):
    place = tmp_path / "o"
    place.mkdir()
    if out == ".":
        os.chdir(place)
    command = ["generate", tiny_folder, "--prompts", prompts, "--out", out, "--quiet", "--num-inference-steps"]
    if out.startswith("sub"):
        (tmp_path / "sub").mkdir()
    assert call(*command, "2")[1].endswith(f"Saved: {Path(out)}\n")
    code, planned, _ = call(*command, "3", "--dry-run")
    assert code == 0
    (beside,) = re.findall(r"^folder: +(.*)$", planned, re.MULTILINE)
    assert not Path(beside).exists()
    assert call(*command, "3")[1].endswith(f"Saved: {beside}\n")
    assert Path(beside).resolve().parent == tmp_path
    assert re.fullmatch(r"o-[0-9a-f]{8}", Path(beside).name)
    assert call(*command, "3")[1].startswith("3 images, 0 of them new")


def test_a_folder_beside_that_holds_something_else_is_refused(settings, tmp_path):
    run(Config(**settings), progress=False)
    changed = Config(**settings | {"sampler": sampler(steps=3)})
    beside = Path(make_plan(changed).folder)
    beside.mkdir()
    (beside / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=f"{beside.name} holds something other than the images of a prompt set"):
        run(changed, progress=False)
    (beside / "mine.txt").unlink()
    (beside / "prompts.json").write_text("[]")
    with pytest.raises(ValueError, match=f"o holds .* and .*{beside.name} holds .* choose an empty folder"):
        run(changed, progress=False)
    assert [path.name for path in beside.iterdir()] == ["prompts.json"]


def test_a_plan_of_other_settings_for_a_model_that_is_not_here(settings):
    run(Config(**settings), progress=False)
    plan = make_plan(Config(**settings | {"model": "nobody/nothing", "sampler": sampler(steps=3)}))
    assert (plan.images, plan.done) == (3, 0)
    assert plan.folder.endswith("o, which holds images made with steps 2 instead of 3")


def test_rows_without_a_prompt_are_left_out_where_that_is_asked_for(call, tiny_folder, tmp_path):
    (tmp_path / "gaps.csv").write_text("case_number,prompt\n0,a cat\n1,\n2,a dog\n")
    command = ["generate", tiny_folder, "--prompts", "gaps.csv", "--out", "o", *QUICK]
    assert "line 3: the prompt is empty" in call(*command)[2]
    assert call(*command, "--skip-empty")[1].startswith("2 images, 2 of them new")


def test_more_seeds_join_those_that_are_there(settings, tmp_path):
    run(Config(**settings, seeds=[0]), progress=False)
    outcome = run(Config(**settings, seeds=[0, 1]), progress=False)
    assert (outcome.images, outcome.new) == (6, 3)
    assert len(records(tmp_path / "o")) == 6


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(call, tiny_folder, prompts, tmp_path):
    command = ["generate", tiny_folder, "--prompts", prompts, "--seeds", "0-9", "--out", "o", *QUICK]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))  # the images fit, the manifest does not
    try:
        code, out, err = call(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert "The images do not fit in o (the disk is full)" in err
    kept = images(tmp_path / "o")
    assert 0 < len(kept) < 30
    code, out, _ = call(*command)
    assert out.startswith(f"30 images, {30 - len(kept)} of them new")
    assert images(tmp_path / "o").items() >= kept.items()


@pytest.fixture(scope="module")
def killed_generations(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    script = Path(__file__).with_name("killed_generations.py")
    command = [sys.executable, str(script), str(tiny_folder), str(tmp_path_factory.mktemp("generations"))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_generation_killed_at_any_point_goes_on_and_nothing_is_made_twice(killed_generations: dict) -> None:
    for name, outcome in killed_generations.items():
        assert outcome["untouched"], name
        assert outcome["samples"] == outcome["needed"], name
        assert outcome["same images"], name
        assert outcome["same manifest"], name


def test_the_kills_hit_different_moments(killed_generations: dict) -> None:
    kept = {name: outcome["kept"] for name, outcome in killed_generations.items()}
    assert [kept[f"rename {number}"] for number in (1, 2, 3, 8, 13)] == [0, 0, 0, 5, 10]
    assert [kept[f"record {number}"] for number in (1, 2, 5)] == [0, 1, 4]
    assert (kept["forward 1"], kept["forward 4"], kept["often"], kept["an image was lost"]) == (0, 4, 8, 9)
    assert 0 <= kept["forward at once"] <= 4  # as many as were written while the second batch began
    assert killed_generations["often"]["attempts"] == 3


def launch(processes: int, model: Path, prompts: Path, out: Path, *more: str) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    options = ["--prompts", str(prompts), "--out", str(out), "--num-inference-steps", "2", "--device", "cpu", *more]
    return [*torchrun, "-m", "erase", "generate", str(model), *options]


@pytest.mark.slow
def test_two_processes_draw_what_one_does(settings, tiny_folder, prompts, tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    run(Config(**settings, seeds=range(4)), progress=False)
    command = launch(2, tiny_folder, prompts, tmp_path / "two", "--seeds", "0-3")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 images, 12 of them new")
    assert done.stdout.count("Saved") == 1
    two, one = tmp_path / "two", tmp_path / "o"
    assert [len((two / f"manifest-{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)] == [6, 6]
    assert images(two) == images(one)
    assert records(two) == records(one)


@pytest.mark.slow
def test_two_processes_agree_on_the_folder_beside_and_go_on_in_it_after_a_kill(
    settings, tiny_folder, prompts, tmp_path
):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    run(Config(**settings), progress=False)
    before = contents(tmp_path / "o")
    command = launch(2, tiny_folder, prompts, tmp_path / "o", "--seeds", "0-199", "--negative-prompt", "blurred")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("o-*/images/*.png"))) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children(recursive=True)
    for each in [process, *ranks]:
        each.kill()
    process.wait()
    psutil.wait_procs(ranks)
    (beside,) = tmp_path.glob("o-*")
    kept = {path: path.stat().st_mtime_ns for path in beside.glob("images/*.png")}
    assert 8 <= len(kept) < 600
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Saved: {beside}\n")
    assert done.stderr.count("so these go into") == 1
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(beside.glob("images/*.png"))) == 600
    assert contents(tmp_path / "o") == before


@pytest.mark.slow
def test_what_is_left_of_a_killed_launcher_does_no_harm(settings, tiny_folder, prompts, tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "o"
    command = launch(2, tiny_folder, prompts, out, "--seeds", "0-1999", "--batch-size", "2")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list(out.glob("images/*.png"))) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # of torchrun alone: its two processes go on drawing for a while
    process.wait()
    changed = settings | {"seeds": range(30), "sampler": sampler(batch_size=2)}
    try:
        generation = run(Config(**changed), progress=False)
    finally:
        for rank in ranks:
            rank.kill()
        psutil.wait_procs(ranks)
    assert generation.images == 90
    kept = {path: path.stat().st_mtime_ns for path in out.glob("images/*.png")}
    known = {out / record["image_path"]: record["image_sha256"] for record in manifest.read(out).values()}
    # the record of an image goes first: a rank that was killed in between left one without
    assert {path: known[path] for path in kept} == {path: sha256(path) for path in kept}
    assert run(Config(**changed), progress=False).new == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_forty_canvas_images_spend_at_most_a_twentieth_outside_unet_and_vae(tmp_path):
    rows = (REPOSITORY / "prompts" / "canvas_retain.csv").read_text(encoding="utf-8").splitlines()[:41]
    (tmp_path / "forty.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = Config(
        model="canvas",
        prompts=str(tmp_path / "forty.csv"),
        out=tmp_path / "o",
        sampler=Sampler(steps=20, guidance_scale=5.0, batch_size=32),
        device="cpu",
    )
    outcome = run(config, progress=False)
    assert outcome.new == 40
    assert outcome.outside <= 0.05


def test_the_clock_sees_what_happens_in_and_between_forwards(tiny_pipe):
    slow = torch.nn.Linear(1, 1)
    slow.register_forward_hook(lambda *_: time.sleep(0.05))  # before the clock's own
    with clock.measure([slow]) as measured:
        slow(torch.zeros(1))
        slow(torch.zeros(1))
        time.sleep(0.1)
    assert 0.1 <= measured.inside < measured.wall - 0.1 + 1e-3
    assert 0 < measured.outside < 1
    assert len(slow._forward_pre_hooks) + len(slow._forward_hooks) == 1
    with clock.measure(clock.drawing_modules(tiny_pipe)) as measured:
        tiny_pipe("a cat", num_inference_steps=2)
    assert len(measured._on_cpu) == 2 * (2 + 2)  # two of the UNet, two parts of the VAE


def test_concepts_of_unguide_are_drawn_with_their_types(settings, tmp_path):
    content = {"target": "a cat", "reference": "a dog", "synonyms": ["a kitty"], "other": ["a fox", ""]}
    (tmp_path / "cat.json").write_text(json.dumps(content))
    run(Config(**settings | {"prompts": str(tmp_path / "cat.json")}), progress=False)
    types = [each["columns"]["type"] for each in records(tmp_path / "o")]
    assert types == ["target", "reference", "synonyms", "other"]
