"""The planted erasers on the embedded canvas model with its own judge and CLIP model, and the demonstration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from erase.canvas.judge import folder as judge_folder
from erase.canvas.towers import clip_folder
from erase.canvas.weights import FOLDER, load_base
from erase.concept import Concept
from eval import demo
from eval.evaluate import evaluate
from eval.suite.config import SuiteConfig


PARTS = (FOLDER / "base" / "model_index.json", judge_folder() / "card.json", clip_folder() / "open_clip_config.json")
pytestmark = pytest.mark.skipif(not all(part.exists() for part in PARTS), reason="the canvas weights are not built")

SUITE = SuiteConfig(
    name="canvas-small",
    styles=["Photo", "Sepia", "Van_Gogh"],
    objects=["Cats", "Flowers", "Trees"],
    seeds=[188, 288],
    held_out="",
    gold=False,
    resamples=200,
)


class BlockList(StableDiffusionPipeline):
    """Refuses prompts with a forbidden word."""

    def __call__(self, prompt: list[str] | None = None, **settings: Any) -> Any:
        output = super().__call__(prompt, **settings)
        output.images = [
            Image.new("RGB", image.size) if "van gogh" in text.lower() else image
            for text, image in zip(prompt or [], output.images, strict=True)
        ]
        return output


def nothing(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return pipe


def destroyed(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.copy_(parameter.std().nan_to_num() * torch.randn(parameter.shape, generator=generator))
    return pipe


def blocked(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return BlockList(**pipe.components, requires_safety_checker=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("eraser", "code"), [(nothing, "not erased"), (destroyed, "destroyed"), (blocked, "blocked")])
def test_planted_erasers_are_told_apart(eraser: Callable, code: str, cache: Path, tmp_path: Path) -> None:
    concept = Concept(target=("Van Gogh",))
    evaluate(eraser(load_base()), SUITE, tmp_path, base="canvas", concept=concept, cache=cache, progress=False)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["verdict"]["code"] == code
    metrics = content["metrics"]
    assert metrics["ira"]["base"]["value"] >= 0.8
    if eraser is not destroyed:  # what a closed-set judge says of noise means nothing: that is why it is withheld
        assert (metrics["ua"]["erased"]["value"] > 0.5) is (eraser is not nothing)
    assert (metrics["ua"]["struck"] is None) is (eraser is nothing)
    assert metrics["clip_retain"]["base"]["value"] > metrics["clip_retain"]["erased"]["value"] - 1e-6


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = demo.run(tmp_path / "demo", seeds=[188], progress=False)
    assert page == tmp_path / "demo" / "report" / "report.html"
    printed = capsys.readouterr().out
    assert "UA" in printed
    assert "base" in printed
