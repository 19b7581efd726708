"""The hash of a suite: of what decides the numbers, by the content of files, wherever they lie."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erase.canvas import judge
from erase.concept import Concept
from eval.files import sha256
from eval.suite.prompt_files import PromptFiles
from eval.suite.suite import Suite, load_suite


Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bytes(name: str, content: bytes) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_bytes


def with_scorers(suite: Suite, **scorers: dict[str, Any]) -> str:
    return replace(suite, scorers=suite.scorers | scorers).hash()


def test_weights_count_by_their_content(grid_suite: Suite, write: Write) -> None:
    def hash_of(place: str, content: bytes) -> str:
        file = str(write(f"{place}/weights.pth", content))
        model = write(f"{place}/clip/open_clip_model.safetensors", content[::-1]).parent
        clip = {"model": f"local-dir:{model}"}
        return with_scorers(grid_suite, inception={"weights": file}, lpips={"backbone": file}, clip=clip)

    assert hash_of("a", b"weights") == hash_of("b", b"weights")
    assert hash_of("a", b"others") != hash_of("b", b"weights")  # another checkpoint at the same path
    canvas, none = with_scorers(grid_suite, clip={"model": "canvas"}), grid_suite.hash()
    assert len({canvas, none, hash_of("b", b"weights")}) == 3


def test_other_settings_of_a_scorer_count_but_no_batch_size(grid_suite: Suite) -> None:
    def hash_of(**settings: Any) -> str:
        return with_scorers(grid_suite, judge=settings)

    assert hash_of(tau=0.5, batch_size=4) == hash_of(tau=0.5, batch_size=8) == hash_of(tau=0.5)
    assert hash_of(tau=0.5) != hash_of(tau=0.6)


@pytest.mark.parametrize("name", ["grid_suite", "prompt_suite"])
def test_the_batch_size_does_not_count_but_steps_do(name: str, request: pytest.FixtureRequest) -> None:
    suite: Suite = request.getfixturevalue(name)
    for change, is_same in (({"batch_size": 3}, True), ({"steps": 3}, False), ({"guidance_scale": None}, False)):
        assert (replace(suite, sampler=replace(suite.sampler, **change)).hash() == suite.hash()) is is_same
    assert replace(suite, resamples=7).hash() != suite.hash()


def test_another_judge_is_another_suite(grid_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = grid_suite.hash()
    folder = shutil.copytree(judge.folder(), tmp_path / "judge")
    monkeypatch.setattr(judge, "folder", lambda: folder)
    assert grid_suite.hash() == before
    (folder / "model.safetensors").write_bytes(b"another")
    assert grid_suite.hash() != before


def test_another_held_out_file_is_another_suite(grid_suite: Suite, held_out_csv: Path, write: Write) -> None:
    def hash_of(place: str, content: bytes, field: str = "held_out") -> str:
        own = {"held_out": "", field: str(write(f"{place}/other.csv", content))}
        return replace(grid_suite, grid=replace(grid_suite.grid, **own)).hash()

    text = held_out_csv.read_bytes()
    assert hash_of("a", text) == hash_of("b", text) == grid_suite.hash()
    assert hash_of("a", text.replace(b"kitty", b"tomcat")) != grid_suite.hash()
    assert hash_of("a", text, "attacks") != grid_suite.hash()
    assert hash_of("a", text, "attacks") != hash_of("a", text + b"\n", "attacks")


def test_prompt_files_and_photographs_count_by_their_content(prompt_suite: Suite, write: Write) -> None:
    text = Path(prompt_suite.prompts.files[0].path).read_bytes()

    def hash_of(place: str, content: bytes = text, photograph: bytes = b"photo") -> str:
        file = replace(prompt_suite.prompts.files[0], path=str(write(f"{place}/prompts.csv", content)))
        photographs = write(f"{place}/photographs/1.png", photograph).parent
        suite = replace(prompt_suite, prompts=replace(prompt_suite.prompts, files=[file]))
        return with_scorers(suite, inception={"weights": "", "real_images": str(photographs)})

    assert hash_of("a") == hash_of("b")
    assert len({hash_of("a"), hash_of("a", text + b"\n"), hash_of("a", photograph=b"other")}) == 3


def test_what_a_page_hides_does_not_count_but_the_kind_of_a_target_does(prompt_suite: Suite, hub: PromptFiles) -> None:
    hidden = replace(prompt_suite, prompts=replace(prompt_suite.prompts, explicit=True))
    assert hidden.hash() == prompt_suite.hash()
    suite = Suite(name="hub", prompts=replace(hub, target="Van Gogh"), scorers={"clip": {"model": ""}})
    aimed = replace(suite, prompts=hub).aim([Concept(target=("Van Gogh",), kind="style")])
    assert aimed.hash() != suite.hash()


def test_a_description_holds_the_settings_and_the_hashes(
    grid_suite: Suite, held_out_csv: Path, hub: PromptFiles
) -> None:
    content = grid_suite.describe()
    assert (content["name"], content["kind"], content["hash"]) == ("tiny", "grid", grid_suite.hash())
    assert content["prompt_files"] == {str(held_out_csv): sha256(held_out_csv)}
    assert content["grid"]["styles"] == ["Photo", "Sketch", "Van_Gogh"]
    assert content["sampler"]["batch_size"] == 8
    assert "prompts" not in content
    suite = Suite(name="hub", prompts=replace(hub, target="Van Gogh"), scorers={"clip": {"model": ""}})
    content = suite.describe()
    assert content["kind"] == "prompts"
    assert content["prompt_files"]["general_image"] == sha256(Path("coco_30k.csv"))
    assert list(content["prompt_files"]) == [file.label for file in hub.files]


def test_a_missing_prompt_file_has_no_hash() -> None:
    with pytest.raises(FileNotFoundError):
        load_suite("coco").hash()
