"""A whole attack: its numbers on planted models, its records, its costs, and that a stopped one goes on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

import erase
from erase.cli.main import main
from erase.concept import Concept
from eval.attack.attacks import soft
from eval.attack.config import AttackConfig
from eval.attack.outcome import compute_outcome
from eval.attack.record import AttackRecord, read_record
from eval.attack.run import Options, attack, check_attackable, target_rows
from eval.models.subject import describe
from eval.report.attack_lines import summary_lines
from eval.score.run import Scorers
from eval.score.table import read_scores
from eval.suite.grid import Target
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.rows import Row
from eval.suite.suite import Suite, load_suite


TARGET = Target("style", ("Van_Gogh",))
SEEDS = (3, 4)
SOFT = {"tokens": 1, "steps": 25, "states_per_step": 4, "trajectories": 4}
TIMES = ("seconds", "wall_s", "written", "peak_memory_bytes")


def totals(record: AttackRecord) -> dict[str, tuple[int, int]]:
    return {name: (arm.asr_total.hits, arm.asr_total.n) for name, arm in record.arms.items()}


def timeless(folder: Path) -> Any:
    """The content of ``attack.json`` without what depends on the machine."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items() if key not in TIMES}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(json.loads((folder / "attack.json").read_text(encoding="utf-8")))


def test_a_planted_erasure_falls_to_words_and_to_soft_tokens_and_to_no_null(run, forgetful, tmp_path: Path) -> None:
    words = run(forgetful, "discrete", out="words", **SOFT)
    results = words.outcome.results
    assert results.base.hits == results.base.n == 4
    assert results.pre.hits == 0
    fallen = totals(words)["attack"][0]
    assert fallen > 0
    assert totals(words) == {"attack": (fallen, 4), "random_words": (0, 4), "seed_search": (0, 4)}
    assert words.excess.value == fallen / 4
    assert words.outcome.withheld == ""
    hits = [each.prompt for record in words.prompts for each in record.arms["attack"] if each.hit]
    assert {"z z cat", "z z dog"} >= set(hits) > set()  # nothing else is the base's image
    record = run(forgetful, **SOFT)
    assert totals(record)["attack"][0] > 0
    assert totals(record)["random_soft_tokens"] == totals(record)["seed_search"] == (0, 4)
    assert record.attack["null"] == "random_soft_tokens"
    # discrete attacks are drawn by their text, soft ones by their prefix; both are judged at the prompt's own seed
    assert {each.seed for prompt in record.prompts for each in prompt.arms["attack"]} == set(SEEDS)
    lines = "\n".join(summary_lines(words))
    assert f"discrete                    {fallen}/4 = {25 * fallen}.0 %" in lines
    assert f"excess over null            {25 * fallen}.0 points" in lines
    with Image.open(tmp_path / "words" / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 4 * 96


def test_a_text_encoder_that_ignores_the_prefix_has_the_null_s_rate(run, tiny_pipe) -> None:
    """Every prompt means the same to it, so attack and random tokens draw the same images."""
    norm = next(part for name, part in tiny_pipe.text_encoder.named_modules() if name.endswith("final_layer_norm"))
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.normal_(generator=torch.Generator().manual_seed(0))
    record = run(tiny_pipe, tokens=2, steps=2)
    assert totals(record)["attack"] == totals(record)["random_soft_tokens"]
    for prompt in record.prompts:
        shown = [[each.hit for each in prompt.arms[arm]] for arm in ("before", "attack", "random_soft_tokens")]
        assert shown[1] == shown[2] == shown[0] * 3
    assert record.excess.value <= 0


def test_a_model_that_was_not_erased_needs_no_attack(run, tiny_pipe) -> None:
    record = run(tiny_pipe, "seeds")
    results = record.outcome.results
    assert results.pre.hits == 4
    assert totals(record) == {"attack": (4, 4), "empty_prompt": (4, 4)}
    assert results.attack.asr_conditional is None
    assert results.attack.asr_per_image.hits == 0  # other seeds are other images
    assert results.excess.value == 0
    assert "states" not in record.cost


def test_the_costs_are_exact(run, forgetful) -> None:
    record = run(forgetful, tokens=2, steps=4, states_per_step=2, trajectories=3)
    cost = record.cost
    assert (cost["search"]["unet_forwards"], cost["search"]["unet_backwards"]) == (4 * 3 * 4 * 2,) * 2
    assert cost["states"]["unet_forwards"] == 2 * 2 * 3 * 2  # guidance, distinct prompts, trajectories, steps
    assert cost["images of base"]["unet_forwards"] == 4 * 2 * 2
    assert cost["images"]["unet_forwards"] == 4 * (1 + 3 * 3) * 2 * 2
    assert cost["states"]["unet_backwards"] == cost["images"]["unet_backwards"] == 0
    assert cost["search"]["seconds"] > 0 < cost["peak_memory_bytes"]
    assert [prompt.cost["unet_backwards"] for prompt in record.prompts] == [3 * 4 * 2] * 4
    assert record.outcome.broken["attack"].images == 4 * 3


def test_a_stopped_attack_goes_on_where_it_was(run, forgetful, tmp_path: Path, monkeypatch) -> None:
    settings = {"tokens": 1, "steps": 3}
    whole = run(forgetful, out="whole", **settings)
    searched = []

    def stopped(pipe: DiffusionPipeline, row: Row, *rest: Any, **options: Any) -> Any:
        searched.append(row.key)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return original(pipe, row, *rest, **options)

    original = soft.search
    monkeypatch.setattr(soft, "search", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(forgetful, out="stopped", **settings)
    files = [*(tmp_path / "stopped").rglob("*.safetensors"), *(tmp_path / "stopped").rglob("*.png")]
    stamps = {path: path.stat().st_mtime_ns for path in files}
    assert len(list((tmp_path / "stopped" / "search").glob("*.safetensors"))) == 2
    run(forgetful, out="stopped", **settings)
    keys = [prompt.key for prompt in whole.prompts]
    assert searched == keys[:3] + keys[2:]
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    image = next((tmp_path / "stopped" / "erased" / "images").glob("*attack1*"))
    image.unlink()
    assert run(forgetful, out="stopped", **settings).outcome == whole.outcome
    assert image.exists()
    for other in ({"seed": 1}, {"tokens": 2}):
        with pytest.raises(ValueError, match="choose an empty folder"):
            run(forgetful, out="stopped", **{**settings, **other})
    with torch.no_grad():
        forgetful.unet.conv_out.weight.mul_(1.1)
    with pytest.raises(ValueError, match="model_hash"):
        run(forgetful, out="stopped", **settings)


def test_a_stopped_attack_reports_the_cost_of_what_was_stopped(run, forgetful, tiny_folder: Path) -> None:
    """It is stopped in the middle of the walks, of the search for the second prompt, and of drawing."""
    settings = {"tokens": 1, "steps": 4, "states_per_step": 1, "trajectories": 2}
    base = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)

    def stop(pipe: DiffusionPipeline, calls: int) -> None:
        """Attack until the UNet was called so many times."""
        left = [calls]

        def count(*_: Any) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1

        hook = pipe.unet.register_forward_pre_hook(count)
        with pytest.raises(KeyboardInterrupt):
            run(forgetful, base=base, **settings)
        hook.remove()

    stop(base, 1)  # each call is of all 4 walks
    stop(forgetful, 4 + 2)  # each call is of all 3 tries
    stop(forgetful, 3 * 4 + 1)  # three prompts are left; then 16 images go together
    record = run(forgetful, base=base, **settings)
    assert record.cost["states"]["unet_forwards"] == 4 * 2 + 2 * 4 * 2  # walks, guidance, steps
    assert [prompt.cost["unet_backwards"] for prompt in record.prompts] == [12, 12 + 2 * 3, 12, 12]
    assert record.cost["search"]["unet_forwards"] == record.cost["search"]["unet_backwards"] == 4 * 12 + 2 * 3
    assert record.cost["images"]["unet_forwards"] == 4 * (1 + 3 * 3) * 2 * 2 + 16 * 2


def test_a_kill_loses_seconds(run, forgetful, tmp_path: Path, monkeypatch) -> None:
    """The book holds what a stage cost before it ends."""
    monkeypatch.setattr("eval.attack.book.INTERVAL", 0.0)
    seen: list[float] = []

    def look(*_: Any) -> None:
        stages = json.loads((tmp_path / "out" / "cost.json").read_text(encoding="utf-8"))
        seen.append(sum(cost["unet_forwards"] for name, cost in stages.items() if name.startswith("search")))

    hook = forgetful.unet.register_forward_pre_hook(look)
    run(forgetful, tokens=1, steps=2)
    hook.remove()
    assert seen[:4] == [0, 3, 6, 9]


@pytest.mark.parametrize("method", ["advunlearn", "unguide"])
def test_an_artefact_says_itself_what_was_erased_from_what(
    tiny_folder: Path, small: Suite, csv: str, judge: Scorers, tmp_path: Path, method: str
) -> None:
    """With the text encoder erased, and with a guider that has its say about every image."""
    settings = {
        "advunlearn": {"steps": 3, "warmup_steps": 1, "attack_steps": 2, "retain_batch": 1, "lr": 1e-3},
        "unguide": {"steps": 4, "refresh": 2, "lr": 3e-2, "calibration_samples": 4, "quantile": 0.01},
    }[method]
    options = {"method": method, "retain": ["a cat"], "device": "cpu", "quiet": True, "num_inference_steps": 4}
    erase.erase_concept(tiny_folder, "Van Gogh", out=tmp_path / "model", **options, **settings)
    config = AttackConfig(attack="soft", seeds=[3], tries=2, params={"tokens": 2, "steps": 3})
    tested = describe(tmp_path / "model")
    attack(tested, config, small, tmp_path / "out", Options(prompts=csv, progress=False), scorers=judge)
    record = read_record(tmp_path / "out")
    assert (record.provenance["method"], record.concept["target"]) == (method, ["Van Gogh"])
    assert record.provenance["base"]["id"] == str(tiny_folder)
    # through UnGuide a prediction is the base's and the adapter's
    assert record.cost["search"]["unet_backwards"] == 2 * 2 * 3 * (2 if method == "unguide" else 1)
    assert totals(record).keys() == {"attack", "random_soft_tokens", "seed_search"}


@pytest.mark.parametrize("tiny_folder", ["sdxl"], indirect=True)
def test_a_suite_without_guidance_is_attacked_as_it_is_evaluated(
    tiny_folder: Path, small: Suite, csv: str, judge: Scorers, van_gogh: Concept, tmp_path: Path
) -> None:
    config, options = AttackConfig(attack="seeds", seeds=[3], tries=1), Options(prompts=csv, progress=False)
    tested = describe(tiny_folder, concept=van_gogh, base=str(tiny_folder))
    for name, scale in (("null", None), ("own", 5.0)):  # of the call of SDXL
        suite = replace(small, sampler=replace(small.sampler, guidance_scale=scale))
        attack(tested, config, suite, tmp_path / name, options, scorers=judge)
    null, own = tmp_path / "null", tmp_path / "own"
    for folder in ("base", "erased"):
        assert (null / folder / "settings.json").read_bytes() == (own / folder / "settings.json").read_bytes()
    assert read_record(null).suite["sampler"]["guidance_scale"] is None
    soft_tokens = AttackConfig(attack="soft", seeds=[3], tries=1)
    with pytest.raises(ValueError, match="StableDiffusionXLPipeline, but gradients reach a prefix through one"):
        attack(tested, replace(soft_tokens, params={}), small, tmp_path / "soft", options, scorers=judge)
    assert not (tmp_path / "soft").exists()


@pytest.fixture
def transformer_pipe(tiny_pipe_xl: StableDiffusionXLPipeline) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3, which has a transformer and no UNet."""
    encoder, tokenizer = tiny_pipe_xl.text_encoder_2, tiny_pipe_xl.tokenizer_2
    width = encoder.config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * width,
            caption_projection_dim=16,
            pooled_projection_dim=2 * width,
            out_channels=4,
        )
    tiny_pipe_xl.vae.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_pipe_xl.vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def test_seed_search_attacks_a_pipeline_of_any_class(run, transformer_pipe, tmp_path: Path) -> None:
    record = run(transformer_pipe, "seeds", base=transformer_pipe, seeds=[3])
    assert totals(record).keys() == {"attack", "empty_prompt"}
    assert record.cost["images of base"]["unet_forwards"] == 2 * 2 * 2  # prompts, guidance, steps
    assert record.cost["images"]["unet_forwards"] == 2 * (1 + 2 * 3) * 2 * 2
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline"):
        run(transformer_pipe, "soft", base=transformer_pipe, out="soft", tokens=1, steps=1)
    assert not (tmp_path / "soft").exists()


def test_the_numbers_follow_from_the_scores(run, forgetful, small: Suite, tmp_path: Path) -> None:
    record = run(forgetful, tokens=1, steps=2)
    scores = {label: each.records for label, each in read_scores(tmp_path / "out").items()}
    assert compute_outcome(scores, TARGET, resamples=small.resamples) == record.outcome
    assert {row["role"] for row in scores["erased"].rows} == {"target", "adversarial"}
    assert record.suite == json.loads(json.dumps(small.describe()))


def test_numbers_that_say_nothing_are_withheld(run, forgetful, small: Suite, tmp_path: Path) -> None:
    record = run(forgetful, tokens=1, steps=2)
    scores = {label: each.records for label, each in read_scores(tmp_path / "out").items()}
    for row in scores["erased"].rows:
        if row["arm"] == "before" and row["attacked"].endswith("seed3"):
            row["broken"] = "blank"
    withheld = compute_outcome(scores, TARGET, resamples=small.resamples).withheld
    assert "2 of 4 images of the erased model are broken, of the base 0" in withheld
    for row in scores["base"].rows:
        row["judge_style"] = "Photo"
    lines = summary_lines(replace(record, outcome=compute_outcome(scores, TARGET, resamples=100)))
    assert lines[0].startswith("Withheld: The base shows the target on 0 of 4 prompts")  # before any number
    assert lines[1].startswith("base, no attack")
    assert len(lines) == 7
    assert all(line.endswith("; withheld") for line in lines[2:])


def test_prompts_come_from_the_grid_or_from_a_file(small: Suite, tmp_path: Path) -> None:
    rows = target_rows(small, TARGET, [7, 8])
    assert [row.key for row in rows] == [f"Van_Gogh_{name}_seed{seed}" for name in ("Cats", "Dogs") for seed in (7, 8)]
    assert {row.role for row in rows} == {""}
    with pytest.raises(ValueError, match="has no prompt that asks for Sepia"):
        target_rows(small, Target("style", ("Sepia",)), [7])
    path = tmp_path / "mine.csv"
    path.write_text("prompt,seed\na swirl,12\na swirl,\n", encoding="utf-8")
    assert [(row.prompt, row.seed) for row in target_rows(small, TARGET, [7, 8], str(path))] == [
        ("a swirl", 12),
        ("a swirl", 7),
        ("a swirl", 8),
    ]


def test_a_pipeline_with_code_of_its_own_is_refused(tiny_pipe) -> None:
    class Filtered(StableDiffusionPipeline):
        pass

    pipe = Filtered(**tiny_pipe.components, requires_safety_checker=False)
    with pytest.raises(ValueError, match="Filtered, whose own code may change a prompt"):
        check_attackable(pipe, white_box=True)
    check_attackable(pipe, white_box=False)
    check_attackable(tiny_pipe, white_box=True)


def test_a_suite_without_a_judge_is_refused(tiny_folder: Path, small: Suite, van_gogh: Concept, tmp_path: Path) -> None:
    tested = describe(tiny_folder, concept=van_gogh, base=str(tiny_folder))
    config = AttackConfig(attack="seeds")
    files = [PromptFile(path="a.csv", name="a", source="")]
    prompts = Suite(name="files", prompts=PromptFiles(files=files), scorers={"clip": {}})
    for suite, match in (
        (prompts, "'files' has prompt files, but an attack needs a grid"),
        (replace(small, scorers={"clip": {}}), "'tiny' has no scorer that gives judge_style"),
        (replace(small, scorers={"timm_pair": {}}), "no weights of its judge, .* give --judge-style"),
    ):
        with pytest.raises(ValueError, match=match):
            attack(tested, config, suite, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def command(tiny_folder: Path, tmp_path: Path, capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Run ``erase attack`` with the canvas judge, whatever it sees in what a random model draws."""
    monkeypatch.chdir(tmp_path)
    suite = {
        "name": "tiny",
        "sampler": {"steps": 2},
        "grid": {"styles": ["Van_Gogh"], "objects": ["Cats"]},
        "scorers": {"judge": {}},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(suite))
    given = ["attack", str(tiny_folder), "--base-model", str(tiny_folder), "--target", "Van Gogh", "--quiet"]
    given += ["--suite", "tiny.yaml", "--tries", "2", "--device", "cpu"]

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([*given, *arguments])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return call


def test_the_command(command, tiny_folder: Path, tmp_path: Path) -> None:
    code, out, err = command("--attack", "soft", "--tokens", "2", "--steps", "2", "--out", "o")
    assert (code, err) == (0, "")
    assert "excess over null" in out
    assert out.endswith("Report: o/attack.json\n")
    record = read_record(tmp_path / "o")
    assert record.attack["params"]["tokens"] == 2
    assert record.reproduce.startswith(f"erase attack {tiny_folder} --attack soft --tokens 2 --steps 2 --tries 2")
    assert record.provenance["versions"]["diffusers"]
    assert record.provenance["judge"]["style_accuracy"] == 1.0
    assert (tmp_path / "o" / "sheet.png").exists()
    for arguments, message in (
        (["--attack", "seeds", "--tokens", "2"], "has no setting 'tokens'"),
        (["--attack", "soft", "--tokens", "76"], "shorten it"),
        (["--attack", "soft", "--prompts", "none.csv"], "'none.csv' is neither a file"),
        (["--attack", "soft", "--out", "o", "--seed", "1"], "choose an empty folder"),
        (["--attack", "seeds", "--out", "o"], "choose an empty folder"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_shipped_suites_hold_what_an_attack_needs() -> None:
    assert len(target_rows(load_suite("canvas"), TARGET, [188])) == 12
