"""Settings: YAML, overrides and flags become one checked configuration; a wrong name is answered by the right one."""

import json
import re

import pytest
import yaml

from erase.config import available_methods, describe_method, method_config, nearest, parse_seeds, read_config, to_yaml
from erase.prompts import data_folder


CATS = {"concept": {"target": ["Cats"]}}
SHIPPED = sorted(
    path.relative_to(data_folder("configs")).with_suffix("").as_posix()
    for method in available_methods()
    for path in (data_folder("configs") / method).glob("*.yaml")
)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_valid_and_complete(name):
    config = read_config(name)
    assert config.out
    assert config.to_concept().target
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_esd_ships_its_five_experiments_with_the_paper_s_values():
    variants = {name.removeprefix("esd/"): read_config(name).params["variant"] for name in SHIPPED if "esd/" in name}
    assert variants == {
        "canvas-object": "x",
        "canvas-style": "x",
        "sd1-explicit": "u",
        "sd1-object": "u",
        "sd1-style": "x",
    }
    params = read_config("esd/sd1-style").params
    assert (params["steps"], params["lr"], params["negative_guidance"], params["guidance_scale"]) == (
        1000,
        1e-5,
        1.0,
        3.0,
    )


def test_later_sources_win(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("concept: {target: Cats, anchor: Dogs}\nseed: 1\nparams: {steps: 7, lr: 1e-3}\n")
    config = read_config(str(file), settings={"seed": 2, **CATS}, overrides=["params.steps=9", "concept.kind=object"])
    assert (config.seed, config.params["steps"], config.params["lr"]) == (2, 9, 1e-3)
    assert (config.concept.target, config.concept.anchor, config.concept.kind) == (["Cats"], "Dogs", "object")


def test_gradient_checkpointing_is_off_unless_a_file_or_an_override_switches_it_on(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("concept: {target: Cats}\ngradient_checkpointing: true\n")
    assert read_config(settings=CATS).gradient_checkpointing is False
    assert read_config(settings=CATS, overrides=["gradient_checkpointing=true"]).gradient_checkpointing is True
    assert read_config(str(file)).gradient_checkpointing is True
    assert read_config(str(file), overrides=["gradient_checkpointing=false"]).gradient_checkpointing is False


def test_overrides_take_lists_empty_values_and_equal_signs():
    overrides = ["concept.target=[Cats, Van Gogh]", "concept.anchor=", "out=a=b", "params.steps=5"]
    config = read_config(overrides=overrides)
    assert config.concept.target == ["Cats", "Van Gogh"]
    assert config.concept.anchor == ""
    assert config.out == "a=b"
    assert method_config(config).steps == 5


def test_a_printed_configuration_reads_back_the_same(tmp_path):
    config = read_config(settings={**CATS, "retain": ["a dog"]}, overrides=["params.lr=0.002"])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert read_config(str(tmp_path / "again.yaml")) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=5", "Unknown key 'steps' in the overrides: did you mean 'params.steps'?"),
        ("sede=5", "did you mean 'seed'?"),
        ("target=Cats", "did you mean 'concept.target'?"),
        ("concept.tarjet=Cats", "Unknown key 'concept.tarjet' in the overrides: did you mean 'concept.target'?"),
        ("params.stpes=5", "Unknown setting 'params.stpes' of the method 'esd': did you mean 'params.steps'?"),
        ("params.steps=many", "params.steps: Value 'many'"),
        ("params.steps=2.5", "params.steps: Value '2.5'"),
        ("params.variant=y", "The variant 'y' is unknown"),
        ("params.lr=-1", "lr is -1.0"),
        ("seed=x", "seed: Value 'x'"),
        ("seed=-1", "The seed is -1"),
        ("save=pickle", "The save 'pickle' is unknown: choose one of pipeline, delta"),
        ("gradient_checkpointing=often", "gradient_checkpointing: Value 'often' is not a valid bool"),
        ("dtype=fp16", "The dtype 'fp16' is unknown: choose one of float32, float16, bfloat16"),
        ("method=edd", "The method 'edd' is unknown"),
        ("concept.kind=stile", "The kind 'stile' is unknown"),
        ("concept.target=no", "concept.target holds False, but text is expected"),
        ("concept=Cats", "'concept' in the overrides is 'Cats'"),
        ("params=5", "'params' in the overrides is 5"),
        ("=5", "The override '=5' has no key"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_config(settings=CATS, overrides=[override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("method: [esd", "is not a readable YAML file"),
        ("- esd\n", "does not hold settings"),
        ("", "The target is []"),
        ("params.steps: 5\n", "has a dot"),
        ("concept: {target: Cats}\nlr: 1\n", "did you mean 'params.lr'"),
        ("concept: {target: Cats}\nseed: 1\nseed: 2\n", "is not a readable YAML file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, content, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_config(str(file))
    assert "\n" not in str(caught.value)


def test_the_retain_set_is_read_from_files_and_from_prompts(tmp_path):
    (tmp_path / "keep.csv").write_text("prompt\na dog\na bird\n")
    config = read_config(settings={**CATS, "retain": ["a horse", str(tmp_path / "keep.csv")]})
    assert config.retain_prompts() == ["a horse", "a dog", "a bird"]


def test_the_nearest_name_is_found_by_its_last_part():
    known = ["seed", "save", "concept.target", "params.negative_guidance"]
    assert nearest("tarjet", known) == "concept.target"
    assert nearest("guidance", known) == "params.negative_guidance"


def test_every_method_says_what_it_is():
    for name in available_methods():
        summary, paper = describe_method(name)
        assert len(summary) > 20
        assert "arXiv" in paper


def test_yaml_of_shipped_files_is_read_by_any_parser():
    for name in SHIPPED:
        assert yaml.safe_load((data_folder("configs") / f"{name}.yaml").read_text())["method"] in available_methods()


def test_one_retain_file_serves_every_target(tmp_path):
    (tmp_path / "keep.csv").write_text("prompt\na Cats picture\na dog\n")
    retain = [str(tmp_path / "keep.csv"), "two cats, kept on purpose"]
    config = read_config(settings={"concept": {"target": ["cats"], "kind": "object"}, "retain": retain})
    assert config.retain_prompts() == ["a dog", "two cats, kept on purpose"]


@pytest.mark.parametrize("target", ["Van Gogh Cats", "cats in Van Gogh style"])
def test_a_retain_file_never_keeps_the_combination_that_is_erased(tmp_path, target):
    settings = {"concept": {"target": [target], "kind": "combination"}, "retain": ["canvas_retain.csv"]}
    kept = read_config(settings=settings).retain_prompts()
    assert len(kept) == 119
    assert not [prompt for prompt in kept if "Van Gogh" in prompt and "Cats" in prompt]
    (tmp_path / "keep.txt").write_text("cats, as Van Gogh painted them\na cat\nVan Gogh's chair\n")
    settings = settings | {"concept": {"target": ["Van Gogh Cats"], "kind": "combination"}}
    kept = read_config(settings=settings | {"retain": [str(tmp_path / "keep.txt")]}).retain_prompts()
    assert kept == ["a cat", "Van Gogh's chair"]


def test_a_text_file_of_retain_prompts_is_read_and_never_taken_for_a_prompt(tmp_path):
    (tmp_path / "keep.txt").write_text("a dog\ntwo cats\na fish\n")

    def prompts(name: str) -> list[str]:
        concept = {"target": ["cats"], "kind": "object"}
        return read_config(settings={"concept": concept, "retain": [str(tmp_path / name)]}).retain_prompts()

    assert prompts("keep.txt") == ["a dog", "a fish"]
    with pytest.raises(FileNotFoundError, match=r"none.txt' is neither a file"):
        prompts("none.txt")
    with pytest.raises(ValueError, match=r"keep.json is JSON, but a CSV or text file is read"):
        prompts("keep.json")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-4", [0, 1, 2, 3, 4]),
        ("0,3,7", [0, 3, 7]),
        ("7, 0-2", [7, 0, 1, 2]),
        ("5-5", [5]),
        ("9223372036854775807", [2**63 - 1]),
    ],
)
def test_seeds_are_lists_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("1,,2", "cannot be read"),
        ("-1", "cannot be read"),
        ("0-", "cannot be read"),
        ("1.5", "cannot be read"),
        ("0-2-4", "cannot be read"),
        ("\u00b2", "cannot be read"),
        ("9223372036854775808", "cannot be read"),
        ("9" * 5000, "cannot be read"),
        ("4-0", "runs backwards: write 0-4"),
        ("0-3,2", "The seed 2 occurs twice in '0-3,2'"),
        ("0-4294967295", "more than 100,000"),
    ],
)
def test_other_seeds_are_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_seeds(text)
