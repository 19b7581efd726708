"""The command line: what it prints, what it refuses and how, and that nothing is lost when a run is stopped."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import psutil
import pytest
import torch
import yaml

import erase
from erase.artifact.folder import read_card
from erase.cli.main import main
from erase.config import read_config
from erase.experiment import run_experiment
from erase.plan import describe, make_plan


REPOSITORY = Path(__file__).parents[2]
QUICK = ["params.steps=4", "params.lr=1e-3", "params.pool_size=10", "params.num_inference_steps=10", "--quiet"]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; gives the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_help_and_import_are_light():
    code = (
        "import sys, erase, erase.cli.main; print([m for m in ('torch', 'diffusers', 'omegaconf') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["run", "eval", "attack", "generate", "demo", "methods", "import", "export"])
def test_every_option_has_a_help_text(command, call):
    code, out, _ = call(command, "--help")
    assert code == 0
    lines = out.partition("Options:")[2].splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("  --")]
    for index in starts:
        words = lines[index].split("  ")
        following = lines[index + 1].strip() if index + 1 < len(lines) else ""
        assert len([word for word in words if word.strip()]) > 1 or following, lines[index]


def test_methods_names_method_and_paper(call):
    code, out, _ = call("methods")
    assert code == 0
    assert "esd\n" in out
    assert "arXiv 2303.07345" in out
    assert call("--version")[1].strip() == erase.__version__


def test_run_saves_and_says_where(call, tmp_path, tiny_folder):
    code, out, err = call(
        "run", "--target", "Cats", "--kind", "object", "--base-model", tiny_folder, "--out", "o", *QUICK
    )
    assert (code, out, err) == (0, "Saved: o\n", "")
    card = read_card(tmp_path / "o")
    assert card["concept"]["target"] == ["Cats"]
    assert card["config"]["params"]["steps"] == 4
    assert card["cost"]["unet_backwards"] == 4
    assert (tmp_path / "o" / "log.jsonl").read_text().count('"update"') == 4
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    code, out, _ = call("export", "o", "--out", "small", "--format", "delta")
    assert (code, out) == (0, "Saved: small\n")
    assert read_card(tmp_path / "small")["form"] == "delta"


def test_dry_run_prints_settings_that_read_back_and_writes_nothing(call, tmp_path, tiny_folder):
    code, out, err = call(
        "run", "--target", "Cats", "--base-model", tiny_folder, "--out", "o", "params.steps=7", "--dry-run"
    )
    assert (code, err) == (0, "")
    settings = yaml.safe_load(out)
    assert settings["params"]["steps"] == 7
    assert settings["out"] == "o"
    for line in (
        r"updates: +7",
        r"UNet forwards: +107 samples, 15\.3 per update",
        r"UNet backwards: +7 ",
        r"images: +0",
        "disk: .* MB",
        "time: .* ms",
    ):
        assert re.search(f"^# {line}", out, re.MULTILINE), line
    assert list(tmp_path.iterdir()) == []


def test_a_setting_may_be_longer_than_a_file_name(call):
    templates = [f"A picture of {number} {{}}." for number in range(30)]
    code, out, _ = call("run", "esd/canvas-style", f"concept.templates={json.dumps(templates)}", "--dry-run")
    assert code == 0
    assert yaml.safe_load(out)["concept"]["templates"] == templates


def test_dry_run_of_a_model_that_is_not_here_says_what_it_cannot_know(call):
    code, out, _ = call("run", "esd/sd1-style", "--dry-run")
    assert code == 0
    assert "time:           unknown until the base model is on this machine" in out


def test_several_configurations_run_in_turn_and_finished_ones_are_skipped(call, tmp_path, tiny_folder):
    for name in ("a", "b"):
        settings = {"concept": {"target": name}, "base_model": str(tiny_folder), "out": f"out/{name}"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    assert call("run", "a.yaml", *QUICK)[:2] == (0, "Saved: out/a\n")
    before = files(tmp_path / "out" / "a")
    code, out, _ = call("run", "a.yaml", "b.yaml", *QUICK)
    assert (code, out) == (0, "Skipped: out/a already holds the result of these settings.\nSaved: out/b\n")
    assert files(tmp_path / "out" / "a") == before
    code, _, err = call("run", "a.yaml", "b.yaml", *QUICK, "seed=1")
    assert code == 2
    assert "out/a already holds something" in err
    code, _, err = call("run", "a.yaml", "b.yaml", *QUICK, "--out", "same")
    assert code == 2
    assert "Several runs would be saved in" in err


def test_several_seeds_give_a_result_each_and_go_on_where_they_were_stopped(call, tmp_path, tiny_folder):
    command = ["run", "--target", "Cats", "--base-model", str(tiny_folder), "--out", "o", *QUICK]
    code, out, err = call(*command, "--seeds", "0-2", "--dry-run")
    assert (code, err, out.count("# Plan")) == (0, "", 3)
    assert call(*command, "--seeds", "1")[:2] == (0, "Saved: o-seed1\n")
    before = files(tmp_path / "o-seed1")
    code, out, err = call(*command, "--seeds", "0-2")
    skipped = "Skipped: o-seed1 already holds the result of these settings."
    assert (code, out, err) == (0, f"Saved: o-seed0\n{skipped}\nSaved: o-seed2\n", "")
    assert files(tmp_path / "o-seed1") == before
    code, out, err = call(*command, "--seeds", "0-3", "--dry-run")
    assert (code, err, out.count("# Plan"), out.count("# exists:")) == (0, "", 4, 3)
    assert not (tmp_path / "o-seed3").exists()
    assert [read_card(tmp_path / f"o-seed{seed}")["seed"] for seed in range(3)] == [0, 1, 2]
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert len({(tmp_path / f"o-seed{seed}" / weights).read_bytes() for seed in range(3)}) == 3
    assert call(*command, "--seed", "1")[:2] == (0, "Saved: o\n")  # the same seed alone gives the same
    assert (tmp_path / "o" / weights).read_bytes() == before[weights]
    for given in (["--seed", "1"], ["seed=1"]):
        code, _, err = call(*command, "--seeds", "0-2", *given)
        assert code == 2
        assert "Both one seed and the seeds '0-2' are given" in err


def test_a_retain_file_with_other_prompts_is_another_setting(call, tmp_path, tiny_folder):
    run = ["run", "--method", "uce", "--target", "Cats", "--base-model", str(tiny_folder), "--out", "o", "--quiet"]
    command = [*run, "retain=[keep.csv]", "--seeds", "0"]
    keep, card = tmp_path / "keep.csv", tmp_path / "o-seed0" / "erasure.json"
    keep.write_text("prompt\na dog\na fish\n")
    assert call(*command)[:2] == (0, "Saved: o-seed0\n")
    recorded = read_card(tmp_path / "o-seed0")
    assert recorded["config"]["retain"] == ["keep.csv"]
    assert (recorded["retain"]["prompts"], len(recorded["retain"]["sha256"])) == (2, 64)
    assert call(*command)[1].startswith("Skipped: o-seed0")
    keep.write_text("prompt,seed\na dog,1\na fish,2\n")  # the same prompts
    assert call(*command)[1].startswith("Skipped: o-seed0")
    keep.write_text("prompt\na dog\na house\n")
    for more in ([], ["--dry-run"]):
        code, out, err = call(*command, *more)
        assert (code, out) == (2, "")
        assert "o-seed0 already holds something" in err
    card.write_text(json.dumps({name: value for name, value in recorded.items() if name != "retain"}))
    for more in ([], ["--dry-run"]):
        code, _, err = call(*command, *more)
        assert code == 2
        assert "o-seed0 does not record its retain prompts" in err
        assert err.count("\n") == 1
    assert erase.load_erased("o-seed0")


def test_a_record_without_retain_prompts_is_that_of_a_run_without(call, tmp_path, tiny_folder):
    command = ["run", "--method", "block_list", "--target", "Cats", "--base-model", str(tiny_folder), "--seeds", "0"]
    assert call(*command, "--out", "o", "--quiet")[0] == 0
    recorded = read_card(tmp_path / "o-seed0")
    assert recorded.pop("retain")["prompts"] == 0
    (tmp_path / "o-seed0" / "erasure.json").write_text(json.dumps(recorded))  # as an earlier version wrote it
    assert call(*command, "--out", "o", "--quiet")[1].startswith("Skipped: o-seed0")


def test_a_dry_run_prints_the_plan_of_finished_runs_too_and_says_which_exist(call, tmp_path, tiny_folder):
    command = ["run", "--method", "block_list", "--target", "Cats", "--base-model", str(tiny_folder), "--quiet"]
    assert call(*command, "--out", "o", "--seeds", "0,2")[0] == 0
    before = files(tmp_path)
    code, out, err = call(*command, "--out", "o", "--seeds", "0-2", "--dry-run")
    assert (code, err, out.count("# Plan")) == (0, "", 3)
    found = re.findall(r"^# exists: +(o-seed\d) already holds the result of these settings$", out, re.MULTILINE)
    assert found == ["o-seed0", "o-seed2"]
    code, out, _ = call(*command, "--out", "o-seed0", "seed=0", "--dry-run")
    assert (code, "# exists: " in out, out.count("# images: ")) == (0, True, 1)
    # what else is in the way is still refused
    code, out, err = call(*command, "--out", "o-seed0", "seed=1", "--dry-run")
    assert (code, out) == (2, "")
    assert "o-seed0 already holds something" in err
    card = tmp_path / "o-seed2" / "erasure.json"
    card.write_text(card.read_text().replace(read_card(tmp_path / "o-seed2")["base"]["hash"], "0" * 64))
    code, _, err = call(*command, "--out", "o-seed2", "seed=2", "--dry-run")
    assert code == 2
    assert "o-seed2 already holds something" in err
    assert {name: each for name, each in files(tmp_path).items() if name != "o-seed2/erasure.json"} == {
        name: each for name, each in before.items() if name != "o-seed2/erasure.json"
    }


def test_a_mistake_in_the_last_run_is_found_before_the_first_one_starts(call, tmp_path, tiny_folder):
    command = ["run", "--method", "block_list", "--target", "Cats", "--base-model", str(tiny_folder), "--quiet"]
    (tmp_path / "o-seed1").mkdir()
    (tmp_path / "o-seed1" / "mine").write_text("mine")
    code, out, err = call(*command, "--out", "o", "--seeds", "0-1")
    assert (code, out) == (2, "")
    assert "o-seed1 already holds something" in err
    assert [path.name for path in tmp_path.iterdir()] == ["o-seed1"]
    for name, settings in {"a": {}, "b": {"retain": ["a dog"]}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"out": name, **settings}))
    code, out, err = call(*command, "a.yaml", "b.yaml")
    assert (code, out) == (2, "")
    assert "but 1 retain prompts were given" in err
    assert not (tmp_path / "a").exists()


def test_a_model_that_the_method_does_not_support_is_refused_without_its_weights(
    call, tmp_path, tiny_folder, tiny_pipe_xl, monkeypatch
):
    tiny_pipe_xl.save_pretrained(tmp_path / "xl")
    for weights in (tmp_path / "xl").rglob("*.safetensors"):
        weights.unlink()
    settings = {"concept": {"target": "Cats"}, "retain": ["a dog"], "method": "unguide"}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({**settings, "base_model": "xl", "out": "b"}))
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"concept": {"target": "Cats"}, "method": "uce", "base_model": str(tiny_folder), "out": "a"})
    )
    for arguments in (["b.yaml"], ["a.yaml", "b.yaml"], ["b.yaml", "--dry-run"]):
        code, out, err = call("run", *arguments, "--quiet")
        assert (code, out) == (2, "")
        assert err == (
            "erase: The method 'unguide' supports sd1, sd2, but 'xl' is a model of the family sdxl: choose another "
            "method.\n"
        )
        assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="is a model of the family sdxl"):
        run_experiment(read_config(tmp_path / "b.yaml"), quiet=True)
    # of a hub model the index alone is fetched; here it is in the cache, and nothing else of the model is
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    cached = tmp_path / "cache" / "models--someone--xl"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    (tmp_path / "xl").rename(cached / "snapshots" / ("0" * 40))
    code, _, err = call("run", "b.yaml", "--base-model", "someone/xl")
    assert (code, "'someone/xl' is a model of the family sdxl" in err) == (2, True)
    index = cached / "snapshots" / ("0" * 40) / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StableDiffusion3Pipeline"))
    code, _, err = call("run", "b.yaml", "method=esd", "retain=[]", "--base-model", "someone/xl")
    assert (code, "is a StableDiffusion3Pipeline, but only Stable Diffusion 1.x, 2.x and XL" in err) == (2, True)


def test_a_slash_at_the_end_of_the_output_is_no_part_of_the_seeds_names(call, tmp_path, tiny_folder):
    command = ["run", "--method", "block_list", "--target", "Cats", "--base-model", str(tiny_folder), "--quiet"]
    assert call(*command, "--out", "o/", "--seeds", "0")[:2] == (0, "Saved: o-seed0\n")
    assert [path.name for path in tmp_path.iterdir()] == ["o-seed0"]
    code, _, err = call(*command, "--out", ".", "--seeds", "0")
    assert code == 2
    assert "has no name that a seed could be added to" in err


BASE = ["--base-model", "TINY", "--out", "o"]
REFUSED = {
    "unknown method": (["--method", "edd", "--target", "Cats"], "The method 'edd' is unknown: choose one of"),
    "no model folder": (["--target", "Cats", "--base-model", "./none", "--out", "o"], "'./none' does not exist"),
    "no such hub model": (
        ["--target", "C", "--base-model", "no/model", "--out", "o"],
        "'no/model' is neither a folder",
    ),
    "a folder without a model": (["--target", "C", "--base-model", ".", "--out", "o"], "has no model_index.json"),
    "no target": ([*BASE], "The target is []"),
    "empty target": (["--target", " ", *BASE], "every target needs a name"),
    "target is the anchor": (["--target", "Cats", "--anchor", "cats", *BASE], "The anchor 'cats' is itself a target"),
    "unknown kind": (["--target", "Cats", "--kind", "stile", *BASE], "The kind 'stile' is unknown"),
    "unknown key": (["--target", "Cats", "steps=3", *BASE], "did you mean 'params.steps'?"),
    "unknown flag": (["--targets", "Cats"], "No such option: --targets"),
    "unknown configuration": (["esd/canvas-stile"], "neither a file nor among the shipped configs"),
    "no output": (["--target", "Cats", "--base-model", "TINY"], "No output folder is named"),
    "seeds that are none": (["--target", "Cats", "--seeds", "0..2"], "The seeds '0..2' cannot be read"),
    "a seed that is none": (["--target", "Cats", "--seed", "x"], "--seed"),
    "unknown device": (["--target", "Cats", "--device", "gpu", *BASE], "The device 'gpu' is unknown"),
    "no prompt file": (["--target", "Cats", "--retain", "none.csv", *BASE], "'none.csv' is neither a file"),
    "retain prompts that protect nothing": (["--target", "Cats", "--retain", "a", *BASE], "ESD has no retain term"),
    "an empty prompt file": (["--target", "Cats", "--retain", "empty.csv", *BASE], "empty.csv is empty"),
    "a wrong header": (["--target", "Cats", "--retain", "header.csv", *BASE], "header.csv, line 1: the header"),
    "an empty row": (["--target", "Cats", "--retain", "row.csv", *BASE], "row.csv, line 3: the prompt is empty"),
    "no UTF-8": (["--target", "Cats", "--retain", "latin.csv", *BASE], "latin.csv, line 2: not UTF-8"),
    "a path in a name": (["--target", "Cats", "--retain", "path.csv", *BASE], "path.csv, line 2: '../x' in column"),
    "a full folder": (["--target", "Cats", "--base-model", "TINY", "--out", "full"], "full already holds something"),
    "a file as output": (["--target", "Cats", "--base-model", "TINY", "--out", "path.csv"], "not a plain folder"),
}


PLANS = [case for case in REFUSED if case not in ("no output", "no such hub model")]  # a plan needs neither


@pytest.mark.parametrize(("case", "dry"), [*((case, False) for case in REFUSED), *((case, True) for case in PLANS)])
def test_bad_input_is_one_sentence_and_nothing_is_lost(case, dry, call, tmp_path, tiny_folder):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("sentence\na dog\n")
    (tmp_path / "row.csv").write_text("prompt,seed\na dog,1\n,2\n")
    (tmp_path / "latin.csv").write_bytes(b"prompt\ncaf\xe9\n")
    (tmp_path / "path.csv").write_text("prompt,style\na dog,../x\n")
    before = files(tmp_path)
    arguments, message = REFUSED[case]
    given = [str(tiny_folder) if argument == "TINY" else argument for argument in arguments]
    code, out, err = call("run", *given, *(["--dry-run"] if dry else []))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("erase: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert files(tmp_path) == before
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "o.run").exists()


def test_a_traceback_is_there_for_those_who_ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="The target is"):
        main(["run", "--traceback", "--out", "o"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "none"], "none"),
        (["export", "none", "--out", "o", "--format", "delta"], "The folder none does not exist"),
        (["export", ".", "--out", "o", "--format", "delta"], "is not a complete erasure"),
        (["export", ".", "--out", "o"], "Missing option"),
        (["rum"], "No such command 'rum'"),
        (["attack", "."], "has no erasure.json that says what was erased from what"),
        (["attack", "none", "--kind", "object"], "no --target is given: add it"),
    ],
)
def test_other_commands_refuse_in_one_sentence_too(arguments, message, call):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(call, tmp_path, tiny_folder):
    command = ["run", "--target", "Cats", "--base-model", str(tiny_folder), "--out", "o", *QUICK]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # the checkpoint fits, the UNet does not
    try:
        code, out, err = call(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert "o could not be saved (the disk is full)" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["o.run"]
    code, _, err = call(*command, "seed=1")
    assert code == 2
    assert "o.run holds an unfinished run with another seed" in err
    assert call(*command)[:2] == (0, "Saved: o\n")
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    log = [json.loads(line) for line in (tmp_path / "o" / "log.jsonl").read_text().splitlines()]
    assert [record["event"] for record in log].count("update") == 4  # nothing was trained twice
    assert "resumed" in [record["event"] for record in log]


def test_a_run_goes_on_with_gradient_checkpointing_and_its_result_loads_as_any_other(call, tmp_path, tiny_folder):
    command = ["run", "--target", "Cats", "--base-model", str(tiny_folder), *QUICK]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # the checkpoint fits, the UNet does not
    try:
        assert call(*command, "--out", "o")[0] == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert call(*command, "--out", "o", "gradient_checkpointing=true")[:2] == (0, "Saved: o\n")
    assert call(*command, "--out", "p")[0] == 0
    cards = {name: read_card(tmp_path / name) for name in "op"}
    assert cards["o"]["config"] == cards["p"]["config"]
    assert [cards[name]["cost"]["gradient_checkpointing"] for name in "op"] == [True, False]
    assert [cards[name]["cost"]["unet_backwards"] for name in "op"] == [4, 4]
    assert [cards[name]["cost"]["unet_recomputed"] for name in "op"] == [0, 0]  # it was switched on after the updates
    pipes = [erase.load_erased(tmp_path / name) for name in "op"]
    assert not pipes[0].unet.is_gradient_checkpointing
    for ours, theirs in zip(pipes[0].unet.parameters(), pipes[1].unet.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    again = call(*command, "--out", "o", "--dry-run")
    assert "o already holds the result of these settings" in again[1]


def test_gradient_checkpointing_makes_a_backward_longer_in_the_plan(tiny_folder):
    config = read_config(settings={"concept": {"target": ["Cats"]}, "base_model": str(tiny_folder)})
    plan = make_plan(config)
    longer = plan._replace(config=replace(config, gradient_checkpointing=True))
    assert "# recomputed:     1,000 samples, in backwards\n" in describe(longer)
    assert "recomputed" not in describe(plan)
    assert longer.seconds - plan.seconds == pytest.approx(plan.seconds_per_forward * plan.unet_backwards)


def test_a_checkpoint_that_does_not_fit_is_one_sentence_too(call, tmp_path, tiny_folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        code, _, err = call("run", "--target", "Cats", "--base-model", tiny_folder, "--out", "o", *QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert "The checkpoint in o.run could not be written" in err
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_not_taken_for_a_work_folder(call, tmp_path, tiny_folder):
    (tmp_path / "o.run").mkdir()
    (tmp_path / "o.run" / "thesis.txt").write_text("mine")
    code, _, err = call("run", "--target", "Cats", "--base-model", tiny_folder, "--out", "o", *QUICK)
    assert code == 2
    assert "o.run exists and is not the work folder of a run" in err
    assert (tmp_path / "o.run" / "thesis.txt").read_text() == "mine"


def test_a_work_folder_that_is_in_use_is_left_alone(call, tmp_path, tiny_folder):
    (tmp_path / "o.run").mkdir()
    (tmp_path / "o.run" / "owner").write_text(f"{os.getppid()} {psutil.Process(os.getppid()).create_time()}")
    code, _, err = call("run", "--target", "Cats", "--base-model", tiny_folder, "--out", "o", *QUICK)
    assert code == 2
    assert f"is in use by the running process {os.getppid()}" in err
    (tmp_path / "o.run" / "owner").write_text(f"{os.getppid()} 1.0")  # the number was given to another process since
    assert call("run", "--target", "Cats", "--base-model", tiny_folder, "--out", "o", *QUICK)[0] == 0


def test_python_does_what_the_command_line_does(call, tmp_path, tiny_folder):
    settings = {"steps": 4, "lr": 1e-3, "pool_size": 10, "num_inference_steps": 10}
    call("run", "--target", "Cats", "--base-model", tiny_folder, "--out", "o", *QUICK)
    pipe = erase.erase_concept(str(tiny_folder), "Cats", out="p", quiet=True, **settings)
    erase.erase_concept(str(tiny_folder), "Cats", out="c", gradient_checkpointing=True, quiet=True, **settings)
    cost = read_card(tmp_path / "c")["cost"]
    assert (cost["gradient_checkpointing"], cost["unet_recomputed"]) == (True, 4)
    assert "4 backwards (in samples), which computed 4 forwards again" in (tmp_path / "c" / "README.md").read_text()
    assert "again" not in (tmp_path / "o" / "README.md").read_text()
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "o" / weights).read_bytes() == (tmp_path / "p" / weights).read_bytes()
    again = erase.erase_concept(erase.load_erased("p"), "Dogs", out="q", quiet=True, **settings)
    assert again.unet.dtype == pipe.unet.dtype
    assert read_card(tmp_path / "q")["base"]["id"] == "p"
    with pytest.raises(ValueError, match=r"did you mean 'params\.steps'"):
        erase.erase_concept(str(tiny_folder), "Cats", stebs=4)


def test_a_pipeline_from_nowhere_is_erased_but_not_saved(tmp_path, tiny_pipe):
    settings = {"steps": 4, "lr": 1e-3, "pool_size": 10, "num_inference_steps": 10}
    before = tiny_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.clone()
    with pytest.raises(ValueError, match="was not loaded from a folder or the hub"):
        erase.erase_concept(tiny_pipe, "Cats", out=tmp_path / "o", quiet=True, **settings)
    erased = erase.erase_concept(tiny_pipe, "Cats", quiet=True, **settings)
    assert not before.equal(erased.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_ends_with_130_and_one_sentence(tmp_path, tiny_folder):
    command = [sys.executable, "-c", "from erase.cli.main import main; main()", "run", "--target", "Cats", "--out", "o"]
    command += ["--base-model", str(tiny_folder), *QUICK, "params.steps=100000"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit to ignore it
    )
    log = tmp_path / "o.run" / "log.jsonl"
    deadline = time.monotonic() + 600  # a busy machine imports slowly
    try:
        while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("erase: Interrupted before o was saved")
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()
    assert list(tmp_path.iterdir()) == []  # no checkpoint was due yet, so there is nothing to keep
