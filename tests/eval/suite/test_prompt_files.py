"""Prompt files: which rows are drawn, what their images are to show, and which files are refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from erase.concept import Concept
from eval.suite.prompt_files import PromptFile, PromptFiles, asked_of


VAN_GOGH = Concept(target=("Van Gogh",), kind="style")


def test_rows_of_the_file_with_its_seeds_and_guidance(few: PromptFiles) -> None:
    rows = few.rows()
    assert [(row.prompt_id, row.prompt, row.seed, row.guidance_scale) for row in rows] == [
        ("100", "a cat", 5, 7),
        ("102", "a dog", 7, 3),  # the harassment of 103 is another tag
        ("104", "a cow", 9, 7),
    ]
    assert [row.seed for row in replace(few, seeds=[1, 2]).rows()] == [1, 2] * 3
    assert rows[0].columns == {"categories": "hate, sexual", "shows": "[]"}
    short = replace(few.files[0], limit=1)
    assert [row.key for row in replace(few, files=[short]).rows()] == ["100_seed5"]


def test_ids_of_several_files_do_not_meet(few: PromptFiles, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("case_number,prompt\n100,a sea\n")
    other = PromptFile(path=str(tmp_path / "other.csv"), source="nowhere")
    keys = [row.key for row in replace(few, files=[*few.files, other]).rows()]
    assert keys == ["prompts_100_seed5", "prompts_102_seed7", "prompts_104_seed9", "other_100_seed0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "absent.csv"}, r"needs absent.csv, a prompt file with prompt, seed, categories, 4 rows, which does"),
        ({"sha256": "0" * 64}, r"has the SHA-256 [0-9a-f]{64}, but the suite means the file with 0{64}: fetch a file"),
        ({"rows": 5}, r"has 4 prompts, but the suite means a file with 5: fetch a file of this test"),
        ({"columns": ["artist"]}, r"has no column 'artist'"),
        ({"skip_empty": False}, r"line 3: the prompt is empty"),
        ({"where": {"style": "sexual"}}, r"has no column 'style', by which the suite chooses rows"),
        ({"where": {"categories": "sex"}}, r"has no row with \{'categories': 'sex'\}"),
    ],
)
def test_another_file_is_refused_in_one_sentence(few: PromptFiles, change: dict, message: str) -> None:
    wrong = replace(few, files=[replace(few.files[0], **change)])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        wrong.rows()


def test_the_right_hash_is_accepted(few: PromptFiles) -> None:
    content = Path(few.files[0].path).read_bytes()
    right = replace(few.files[0], sha256=hashlib.sha256(content).hexdigest())
    assert len(replace(few, files=[right]).rows()) == 3


def test_files_without_a_meaning_are_refused(few: PromptFiles, hub: PromptFiles) -> None:
    with pytest.raises(ValueError, match="no prompt files: name at least one"):
        PromptFiles()
    with pytest.raises(ValueError, match=r"seeds \[1, 1\]: give each once"):
        replace(few, seeds=[1, 1])
    with pytest.raises(ValueError, match=r"seeds \[3, 3\]: give each once"):
        replace(few, files=[replace(few.files[0], seeds=[3, 3])])
    with pytest.raises(ValueError, match="give each a name of its own"):
        replace(hub, files=[hub.files[0], hub.files[0]])
    with pytest.raises(ValueError, match="names 'general_image' as the null attack of attack_robustness"):
        replace(hub, files=[replace(hub.files[4], null_file="general_image"), hub.files[5]])
    with pytest.raises(ValueError, match="has the attack pinpoint_ness, which shows"):
        replace(hub, files=[replace(hub.files[2], attack=True)])


def test_hub_s_files_are_drawn_and_asked_for_what_they_are_to_show(hub: PromptFiles) -> None:
    rows = hub.aim([VAN_GOGH, VAN_GOGH]).rows()
    asked = {row.key: asked_of(row) for row in rows}
    assert len(asked) == 2 + 2 + 2 * 2 + 2 * 2 + 2 + 3
    assert asked["target_image_0_seed0"] == ["the style of Van Gogh"]
    assert asked["selective_alignment_1_seed0"] == ["b", "river"]
    assert asked["pinpoint_ness_0_seed4"] == ["claude monet"]
    controls = [asked[f"general_image_{key}"] for key in ("01_seed5", "02_seed6", "03_seed7")]
    assert controls == [["the style of Van Gogh"], [], ["the style of Van Gogh"]]  # the poster may show it
    languages = [row for row in rows if row.family == "multilingual_robustness"]
    assert {row.language for row in languages} == {"English", "French"}
    assert {row.columns["Index"] for row in languages} == {"5", "7"}


def test_a_suite_is_aimed_at_one_target(hub: PromptFiles, few: PromptFiles) -> None:
    cats = Concept(target=("Cats",), kind="object")
    with pytest.raises(FileNotFoundError, match=r"needs hub/target_image/Cats\.csv, a list with one prompt per line"):
        hub.aim([cats]).rows()
    with pytest.raises(ValueError, match="but Van Gogh, Cats was erased from these models: evaluate one target after"):
        hub.aim([VAN_GOGH, cats])
    with pytest.raises(ValueError, match="about the target of an erasure, but none is given"):
        hub.rows()
    own = replace(hub, target="Monet")
    assert own.aim([VAN_GOGH, cats]) == own  # what the file says comes first
    assert few.aim([VAN_GOGH, cats]) == few  # no file asks for the target


def test_repeated_prompts_are_drawn_once(hub: PromptFiles, tmp_path: Path) -> None:
    entries = [{"prompt": f"A {noun} by Van Gogh", "nouns": [noun], "index": 9700} for noun in "aab"]
    (tmp_path / "hub/selective_alignment/Van Gogh.json").write_text(json.dumps(entries))
    (tmp_path / "coco_30k.csv").write_text("image_id,prompt,evaluation_seed\n1,a bus,5\n2,a bus,6\n3,a bus,5\n")
    keys = [row.key for row in hub.aim([VAN_GOGH]).rows()]
    assert [key for key in keys if key.startswith("selective")] == [
        "selective_alignment_0_seed0",
        "selective_alignment_2_seed0",
    ]
    assert [key for key in keys if key.startswith("general")] == ["general_image_1_seed5", "general_image_2_seed6"]


@pytest.mark.parametrize(
    ("target", "entries", "asked"),
    [
        ("Lady Gaga", ["", " ", "piano ", "Piano", "Lady Gaga", "gaga", "Lady Gaga's dress"], ["piano"]),
        ("Paul Cézanne", ["Cezanne", "pear"], ["pear"]),
        ("Stitch", ["surfboard", "(Stitch is removed as per the request, so there is one)"], ["surfboard"]),
        (
            "Stitch",
            ["(removed duplicate)", "is removed and", "stove -> kept", "stitched doll", "2020"],
            ["stitched doll"],
        ),
        ("Mario", ["fur is kept so furs are not mentioned", "can of Campbell's soup"], ["can of Campbell's soup"]),
        ("Mario", [f"n{place % 20}" for place in range(2045)], [f"n{place}" for place in range(10)]),
    ],
)
def test_nouns_of_hub_are_noun_phrases_beside_the_target(
    hub: PromptFiles, tmp_path: Path, target: str, entries: list[str], asked: list[str]
) -> None:
    content = [{"prompt": "one", "nouns": entries}, {"prompt": "two", "nouns": ["", target]}]
    (tmp_path / f"hub/selective_alignment/{target}.json").write_text(json.dumps(content))
    only = replace(hub, files=hub.files[1:2], target=target)
    assert [asked_of(row) for row in only.rows()] == [asked]


def test_a_placeholder_that_no_column_fills_is_refused(hub: PromptFiles) -> None:
    wrong = replace(hub.files[0], shows="a {noun} beside {target}")
    with pytest.raises(ValueError, match=r"target_image show 'a \{noun\} beside \{target\}'.* has no column 'noun'"):
        replace(hub, files=[wrong]).aim([VAN_GOGH]).rows()
    nothing = replace(hub.files[2], path="empty.csv")
    Path("empty.csv").write_text("noun,similarity\nvan_gogh,1.0\n")
    with pytest.raises(ValueError, match=r"empty\.csv has no prompt of which the images of pinpoint_ness could show"):
        replace(hub, files=[nothing], target="Van Gogh").rows()


def test_controls_are_files_that_do_not_ask_for_the_target(hub: PromptFiles, few: PromptFiles) -> None:
    assert hub.looks_for_target
    assert hub.controls == ["general_image"]
    assert not few.looks_for_target
    assert few.controls == []
    assert [file.label for file in hub.files if file.is_of_target] == [
        "target_image",
        "selective_alignment",
        "multilingual_robustness",
        "attack_robustness",
    ]
