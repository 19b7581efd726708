"""Scorers of a suite of prompt files: what is loaded where and when, and photographs that are looked at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, LlavaProcessor

from erase.concept import Concept
from eval import evaluate_prompts as prompt_suite
from eval.evaluate_prompts import Named, evaluate
from eval.models import subject
from eval.score import scoring
from eval.score.prompt_scoring import PromptScorers, load_scorers, real_features
from eval.score.scorers import validity, vlm
from eval.score.scoring import Scorers
from eval.score.table import read_scores
from eval.suite.config import SuiteConfig
from eval.suite.prompt_config import ClipFiles, PromptFile, PromptSuiteConfig, suite_rows


@pytest.fixture
def config(tmp_path: Path) -> PromptSuiteConfig:
    (tmp_path / "prompts.csv").write_text("prompt\na cat\na dog\n")
    file = PromptFile(path=str(tmp_path / "prompts.csv"), source="this test", shows="a cat")
    return PromptSuiteConfig(
        name="few", prompts=[file], scorers=["vlm"], vlm=str(tmp_path / "vlm"), num_inference_steps=1, resamples=10
    )


@pytest.fixture
def folder(tiny_pipe, tmp_path: Path) -> Path:
    """A vision-language model as far as it is looked at before images are drawn; its weights are none."""
    processor = LlavaProcessor(
        CLIPImageProcessor(), tiny_pipe.tokenizer, patch_size=8, image_token="a", chat_template="{{ messages }}"
    )
    processor.save_pretrained(tmp_path / "vlm")
    (tmp_path / "vlm" / "config.json").write_text("{}")
    (tmp_path / "vlm" / "model.safetensors").write_bytes(b"")
    return tmp_path / "vlm"


def test_the_vision_language_model_is_loaded_once_images_are_drawn(
    config: PromptSuiteConfig, folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    scorers = load_scorers(config, device="meta")
    assert scorers.vlm == vlm.Config(model=folder, device="meta")
    assert scorers.is_complete(config)
    model = Named("m", subject.describe(tiny_folder, concept=Concept(target=("cat",)), base=str(tiny_folder)))
    with pytest.raises(ValueError, match="model_type"):  # config.json is empty
        evaluate([model], config, tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out").rglob("images/*.png"))) == 2 * 2


def test_scores_are_on_disk_before_anything_is_computed_from_them(
    config: PromptSuiteConfig, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("the distances")

    monkeypatch.setattr(prompt_suite, "build_report", fail)
    model = Named("m", subject.describe(tiny_folder, concept=Concept(target=("cat",)), base=str(tiny_folder)))
    scorers = PromptScorers(images=Scorers(classifier=None, validity=validity.load(validity.Config())))
    with pytest.raises(MemoryError, match="the distances"):
        evaluate([model], config, tmp_path / "out", scorers=scorers, progress=False)
    assert {name: len(table) for name, table in read_scores(tmp_path / "out/scores.jsonl").items()} == {
        "base": 2,
        "m": 2,
    }


@pytest.mark.parametrize(
    ("absent", "error", "message"),
    [
        ("config.json", FileNotFoundError, r"no folder of transformers with a config\.json"),
        ("model.safetensors", FileNotFoundError, r"has no weights, neither \*\.safetensors nor \*\.bin: complete it"),
        ("processor_config.json", ValueError, "has no processor that opens"),
        ("chat_template.jinja", ValueError, "has no chat template"),
    ],
)
def test_an_incomplete_vision_language_model_costs_no_image(
    config: PromptSuiteConfig, folder: Path, tiny_folder: Path, tmp_path: Path, absent: str, error: type, message: str
) -> None:
    (folder / absent).unlink()
    model = Named("m", subject.describe(tiny_folder, concept=Concept(target=("cat",)), base=str(tiny_folder)))
    with pytest.raises(error, match=message):
        evaluate([model], config, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_clip_is_loaded_where_models_run(config: PromptSuiteConfig) -> None:
    asked = replace(config, scorers=["clip"], clip=ClipFiles(model="canvas"))
    for clip in (
        load_scorers(asked, device="meta").images.clip,
        scoring.load_scorers(SuiteConfig(name="few"), device="meta").clip,
    ):
        assert {parameter.device.type for parameter in clip.model.parameters()} == {"meta"}


class Mean(nn.Module):
    """Features that are the mean colour, for the Inception scorer's place; counts what it is shown."""

    batch_size = 2

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.identity = {"weights_sha256": weights}
        self.shown = 0
        self.sizes: set[tuple[int, int]] = set()

    def forward(self, images: list[Image.Image]) -> np.ndarray:
        self.shown += len(images)
        self.sizes |= {image.size for image in images}
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])


def test_real_images_are_looked_at_once_and_their_folder_is_left_alone(
    config: PromptSuiteConfig, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for place, size in enumerate([(40, 30), (30, 40), (64, 64)]):
        Image.new("RGB", size, (place, 0, 0)).save(tmp_path / "photos" / f"{place}.png")
    rows, drawn = suite_rows(config), tmp_path / "drawn"
    (drawn / "images").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(drawn / f"images/{rows[0].key}.png")
    asked = replace(config, real_images=str(tmp_path / "photos"))
    networks = [Mean("a"), Mean("a"), Mean("b")]
    for network in networks:
        scorers = PromptScorers(
            images=Scorers(classifier=None, validity=validity.load(validity.Config()), inception=network)
        )
        found = real_features(scorers, asked, drawn, rows, tmp_path / "cache")
        assert found[:, 0].tolist() == [0, 1, 2]
    assert [network.shown for network in networks] == [3, 0, 3]
    assert networks[0].sizes == {(16, 16)}
    assert len(list((tmp_path / "photos").iterdir())) == 3
