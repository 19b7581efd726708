"""A whole attack: its numbers on planted models, its records, and that a stopped one goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

import erase
from erase.cli.main import main
from erase.concept import Concept
from eval.attack.attack_report import summary_lines
from eval.attack.attacks import soft
from eval.attack.robustness import attack, check_attackable, report, target_rows
from eval.draw.generate import generate
from eval.score.scorers import classifier, validity
from eval.score.scorers.classifier import pixels
from eval.score.scoring import Scorers
from eval.score.table import read_scores
from eval.suite.config import AttackConfig, SuiteConfig, load_attack, load_suite
from eval.suite.grid import Target
from eval.suite.rows import Row


CONCEPT = Concept(target=("Van Gogh",), kind="style")
TARGET = Target("style", ("Van_Gogh",))
PROMPTS = ("z cat", "z dog")
SEEDS = (3, 4)
GUIDANCE = 20.0  # a word more or less is then more than the judge overlooks
SOFT = {"tokens": 1, "steps": 25, "states_per_step": 4, "trajectories": 4}
TIMES = ("seconds", "wall_s", "written", "peak_memory_bytes")


@pytest.fixture(scope="module")
def small(suite: SuiteConfig) -> SuiteConfig:
    return replace(suite, held_out="", resamples=200, guidance_scale=GUIDANCE)


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("csv") / "prompts.csv"
    path.write_text("prompt\n" + "".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def judge(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, memory: type) -> Scorers:
    """Sees the target in what lies close to the base's images of the prompts, and nothing in anything else."""
    out = tmp_path_factory.mktemp("known")
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    rows = [Row(prompt_id=prompt.replace(" ", "_"), prompt=prompt, seed=seed) for prompt in PROMPTS for seed in SEEDS]
    generate(pipe, rows, out, num_inference_steps=2, guidance_scale=GUIDANCE, progress=False)
    images = pixels([Image.open(out / "images" / f"{row.key}.png") for row in rows])
    module = memory(images, torch.full((len(rows),), 9), torch.zeros(len(rows), 12, dtype=torch.bool))
    return Scorers(
        classifier=classifier.load(classifier.Config(judge=module)),
        validity=validity.load(validity.Config()),
    )


@pytest.fixture
def run(tiny_folder: Path, small: SuiteConfig, csv: str, judge: Scorers, tmp_path: Path) -> Callable[..., dict]:
    """Attack a pipeline; gives the content of ``attack.json``."""

    def attack_pipe(
        pipe: DiffusionPipeline, name: str = "soft", out: str = "out", seed: int = 0, **params: Any
    ) -> dict:
        config = AttackConfig(attack=name, seeds=list(SEEDS), tries=3, params=params)
        options = {"prompts": csv, "base": str(tiny_folder), "concept": CONCEPT, "scorers": judge, "seed": seed}
        path = attack(pipe, config, small, tmp_path / out, progress=False, **options)
        return json.loads(path.read_text(encoding="utf-8"))

    return attack_pipe


def totals(content: dict) -> dict[str, tuple[int, int]]:
    results = content["results"]
    arms = {"attack": results["attack"], **results["nulls"]}
    return {name: (arm["asr_total"]["hits"], arm["asr_total"]["n"]) for name, arm in arms.items()}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def test_a_planted_erasure_falls_to_words_and_to_soft_tokens_and_to_no_null(run, forgetful, tmp_path: Path) -> None:
    words = run(forgetful, "discrete", "words", **SOFT)
    assert words["results"]["base"]["hits"] == words["results"]["base"]["n"] == 4
    assert words["results"]["pre"]["hits"] == 0
    fallen = totals(words)["attack"][0]
    assert fallen > 0
    assert totals(words) == {"attack": (fallen, 4), "random_words": (0, 4), "seed_search": (0, 4)}
    assert words["results"]["excess"]["value"] == fallen / 4
    assert words["withheld"] is None
    hits = [each["prompt"] for record in words["prompts"] for each in record["arms"]["attack"] if each["hit"]]
    assert {"z z cat", "z z dog"} >= set(hits) > set()  # nothing else is the base's image
    content = run(forgetful, **SOFT)
    assert totals(content)["attack"][0] > 0
    assert totals(content)["random_soft_tokens"] == totals(content)["seed_search"] == (0, 4)
    assert content["attack"]["null"] == "random_soft_tokens"
    # discrete attacks are drawn by their text, soft ones by their prefix; both are judged at the prompt's own seed
    assert {each["seed"] for record in content["prompts"] for each in record["arms"]["attack"]} == set(SEEDS)
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
    content = run(tiny_pipe, tokens=2, steps=2)
    assert totals(content)["attack"] == totals(content)["random_soft_tokens"]
    for record in content["prompts"]:
        shown = [[each["hit"] for each in record["arms"][arm]] for arm in ("before", "attack", "random_soft_tokens")]
        assert shown[1] == shown[2] == shown[0] * 3
    assert content["results"]["excess"]["value"] <= 0


def test_a_model_that_was_not_erased_needs_no_attack(run, tiny_pipe) -> None:
    content = run(tiny_pipe, "seeds")
    assert content["results"]["pre"]["hits"] == 4
    assert totals(content) == {"attack": (4, 4), "empty_prompt": (4, 4)}
    assert content["results"]["attack"]["asr_conditional"] is None
    assert content["results"]["attack"]["asr_per_image"]["hits"] == 0  # other seeds are other images
    assert content["results"]["excess"]["value"] == 0
    assert "unet_backwards" not in content["cost"].get("states", {})


def test_the_costs_are_exact(run, forgetful) -> None:
    content = run(forgetful, tokens=2, steps=4, states_per_step=2, trajectories=3)
    cost = content["cost"]
    assert (cost["search"]["unet_forwards"], cost["search"]["unet_backwards"]) == (4 * 3 * 4 * 2,) * 2
    assert cost["states"]["unet_forwards"] == 2 * 2 * 3 * 2  # guidance, distinct prompts, trajectories, steps
    assert cost["images of base"]["unet_forwards"] == 4 * 2 * 2
    assert cost["images"]["unet_forwards"] == 4 * (1 + 3 * 3) * 2 * 2
    assert cost["states"]["unet_backwards"] == cost["images"]["unet_backwards"] == 0
    assert content["prompts"][0]["cost"]["unet_backwards"] == 3 * 4 * 2
    assert content["broken"]["attack"]["images"] == 4 * 3


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
    kept = [*(tmp_path / "stopped").rglob("*.safetensors"), *(tmp_path / "stopped").rglob("*.png")]
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert len(list((tmp_path / "stopped" / "search").glob("*.safetensors"))) == 2
    again = run(forgetful, out="stopped", **settings)
    assert searched == [record["key"] for record in whole["prompts"][:3]] + [
        record["key"] for record in whole["prompts"][2:]
    ]
    assert timeless(again) == timeless(whole)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    image = next((tmp_path / "stopped" / "erased" / "images").glob("*attack1*"))
    image.unlink()
    assert timeless(run(forgetful, out="stopped", **settings))["results"] == timeless(whole)["results"]
    assert image.exists()
    for other in ({"seed": 1}, {"tokens": 2}):
        with pytest.raises(ValueError, match="choose an empty folder"):
            run(forgetful, out="stopped", **{**settings, **other})
    with torch.no_grad():
        forgetful.unet.conv_out.weight.mul_(1.1)
    with pytest.raises(ValueError, match="model_hash"):
        run(forgetful, out="stopped", **settings)


@pytest.mark.parametrize("method", ["advunlearn", "unguide"])
def test_an_artefact_says_itself_what_was_erased_from_what(
    tiny_folder: Path, small: SuiteConfig, csv: str, judge: Scorers, tmp_path: Path, method: str
) -> None:
    """With the text encoder erased, and with a guider that has its say about every image."""
    settings = {
        "advunlearn": {"steps": 3, "warmup_steps": 1, "attack_steps": 2, "retain_batch": 1, "lr": 1e-3},
        "unguide": {"steps": 4, "refresh": 2, "lr": 3e-2, "calibration_samples": 4, "quantile": 0.01},
    }[method]
    options = {"method": method, "retain": ["a cat"], "device": "cpu", "quiet": True, "num_inference_steps": 4}
    erase.erase_concept(tiny_folder, "Van Gogh", out=tmp_path / "model", **options, **settings)
    config = AttackConfig(attack="soft", seeds=[3], tries=2, params={"tokens": 2, "steps": 3})
    out = attack(tmp_path / "model", config, small, tmp_path / "out", prompts=csv, scorers=judge, progress=False)
    content = json.loads(out.read_text(encoding="utf-8"))
    assert (content["provenance"]["method"], content["concept"]["target"]) == (method, ["Van Gogh"])
    assert content["provenance"]["base"]["id"] == str(tiny_folder)
    # through UnGuide a prediction is the base's and the adapter's
    assert content["cost"]["search"]["unet_backwards"] == 2 * 2 * 3 * (2 if method == "unguide" else 1)
    assert totals(content).keys() == {"attack", "random_soft_tokens", "seed_search"}


@pytest.mark.parametrize("tiny_folder", ["sdxl"], indirect=True)
def test_a_suite_without_guidance_is_attacked_as_it_is_evaluated(
    tiny_folder: Path, small: SuiteConfig, csv: str, judge: Scorers, tmp_path: Path
) -> None:
    config = AttackConfig(attack="seeds", seeds=[3], tries=1)
    for name, scale in (("null", None), ("own", 5.0)):  # of the call of SDXL
        options = {"prompts": csv, "base": str(tiny_folder), "concept": CONCEPT, "scorers": judge, "progress": False}
        attack(tiny_folder, config, replace(small, guidance_scale=scale), tmp_path / name, **options)
    null, own = tmp_path / "null", tmp_path / "own"
    for folder in ("base", "erased"):
        assert (null / folder / "settings.json").read_bytes() == (own / folder / "settings.json").read_bytes()
    assert json.loads((null / "attack.json").read_text(encoding="utf-8"))["suite"]["guidance_scale"] is None


def test_the_numbers_follow_from_the_scores(run, forgetful, small: SuiteConfig, tmp_path: Path) -> None:
    content = run(forgetful, tokens=1, steps=2)
    scores = read_scores(tmp_path / "out" / "scores.jsonl")
    again = json.loads(json.dumps(report(scores, TARGET, resamples=small.resamples)))
    assert again == {key: content[key] for key in ("withheld", "results", "broken")}
    assert {row["role"] for row in scores["erased"].rows} == {"target", "adversarial"}


def test_numbers_that_say_nothing_are_withheld(run, forgetful, small: SuiteConfig, tmp_path: Path) -> None:
    content = run(forgetful, tokens=1, steps=2)
    scores = read_scores(tmp_path / "out" / "scores.jsonl")
    for row in scores["erased"].rows:
        if row["arm"] == "before" and row["attacked"].endswith("seed3"):
            row["broken"] = "blank"
    told = report(scores, TARGET, resamples=small.resamples)["withheld"]
    assert "2 of 4 images of the erased model are broken, of the base 0" in told
    for row in scores["base"].rows:
        row["judge_style"] = "Photo"
    content |= report(scores, TARGET, resamples=100)
    first, base, *others = summary_lines(content)
    assert first.startswith("Withheld: The base shows the target on 0 of 4 prompts")  # before any number
    assert base.startswith("base, no attack")
    assert len(others) == 5
    assert all(line.endswith("; withheld") for line in others)


def test_prompts_come_from_the_grid_or_from_a_file(small: SuiteConfig, tmp_path: Path) -> None:
    rows = target_rows(small, TARGET, [7, 8])
    assert [row.key for row in rows] == [f"Van_Gogh_{name}_seed{seed}" for name in ("Cats", "Dogs") for seed in (7, 8)]
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


def test_shipped_attacks_say_everything() -> None:
    for name in ("soft", "discrete", "seeds"):
        config = load_attack(name)
        assert config.attack == name
        assert load_attack(name, tries=2).tries == 2
    assert load_attack("soft", params={"tokens": 5, "steps": None}).params["tokens"] == 5
    assert load_attack("soft").params["init"] == "gaussian"
    assert asdict(load_attack("soft"))["params"]["steps"] == 30


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("attack: soft\nparams: {token: 3}\n", "has no setting 'token'; it has tokens, steps"),
        ("attack: seeds\nparams: {tokens: 3}\n", "has no setting 'tokens'; it has none beside tries and seeds"),
        ("attack: softer\n", "The attack 'softer' is unknown: choose one of discrete, seeds, soft"),
        ("attack: soft\ntries: 0\n", "has 0 tries"),
        ("attack: soft\nseeds: [1, 1]\n", "no seed twice"),
        ("attack: soft\nbudget: 3\n", "budget"),
        ("attack: soft\nparams: {steps: many}\n", r"params\.steps"),
        ("tries: 3\n", "attack"),
        ("- 1\n", "does not hold"),
    ],
)
def test_a_wrong_attack_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=match):
        load_attack(str(tmp_path / "mine.yaml"))


def test_an_unknown_attack_names_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"attacks/discrete, attacks/seeds, attacks/soft\.$"):
        load_attack("sfot")


def test_the_command(tiny_folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """With the canvas judge, whatever it sees in what a random model draws."""
    monkeypatch.chdir(tmp_path)
    suite = {"name": "tiny", "styles": ["Van_Gogh"], "objects": ["Cats"], "num_inference_steps": 2, "clip": ""}
    (tmp_path / "tiny.yaml").write_text(json.dumps(suite))
    command = ["attack", str(tiny_folder), "--base-model", str(tiny_folder), "--target", "Van Gogh", "--quiet"]
    command += ["--suite", "tiny.yaml", "--tries", "2", "--device", "cpu"]
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--attack", "soft", "--tokens", "2", "--steps", "2", "--out", "o"])
    out, err = capsys.readouterr()
    assert (exit_.value.code, err) == (0, "")
    assert "excess over null" in out
    assert out.endswith("Report: o/attack.json\n")
    content = json.loads((tmp_path / "o" / "attack.json").read_text())
    assert content["attack"]["params"]["tokens"] == 2
    assert content["reproduce"].startswith(f"erase attack {tiny_folder} --attack soft --tokens 2 --steps 2 --tries 2")
    assert content["provenance"]["versions"]["diffusers"]
    assert (tmp_path / "o" / "sheet.png").exists()
    for arguments, message in (
        (["--attack", "seeds", "--tokens", "2"], "has no setting 'tokens'"),
        (["--attack", "soft", "--tokens", "76"], "shorten it"),
        (["--attack", "soft", "--prompts", "none.csv"], "'none.csv' is neither a file"),
        (["--attack", "soft", "--out", "o", "--seed", "1"], "choose an empty folder"),
        (["--attack", "seeds", "--out", "o"], "choose an empty folder"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([*command, *arguments])
        out, err = capsys.readouterr()
        assert (exit_.value.code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_shipped_suites_hold_what_an_attack_needs() -> None:
    assert len(target_rows(load_suite("canvas"), TARGET, [188])) == 12
