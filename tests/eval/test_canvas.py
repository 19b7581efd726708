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
from erase.canvas.weights import load_base
from erase.cli.main import main
from erase.concept import Concept
from erase.shipped import FOLDER
from eval import demo
from eval.evaluate import Options, evaluate
from eval.models import subject
from eval.results import read_results
from eval.suite.grid import GridRows
from eval.suite.suite import Sampler, Suite


PARTS = (FOLDER / "base" / "model_index.json", judge_folder() / "card.json", clip_folder() / "open_clip_config.json")
pytestmark = pytest.mark.skipif(not all(part.exists() for part in PARTS), reason="the canvas weights are not built")

SUITE = Suite(
    name="canvas-small",
    sampler=Sampler(steps=20, guidance_scale=5.0, batch_size=40),
    grid=GridRows(
        styles=["Photo", "Sepia", "Van_Gogh"],
        objects=["Cats", "Flowers", "Trees"],
        seeds=[188, 288],
        held_out="",
        gold=False,
    ),
    scorers={"judge": {}, "clip": {"model": "canvas"}},
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
def test_planted_erasers_are_told_apart(
    eraser: Callable, code: str, van_gogh: Concept, cache: Path, tmp_path: Path
) -> None:
    tested = subject.describe(eraser(load_base()), concept=van_gogh, base="canvas")
    assert evaluate([tested], SUITE, tmp_path, Options(cache=cache, progress=False)).is_judged
    results = read_results(tmp_path)
    assert results.verdicts["erased"].code == code
    metrics = results.metrics
    assert metrics["ira"].values["base"].value >= 0.8
    if eraser is not destroyed:  # what a closed-set judge says of noise means nothing: that is why it is withheld
        assert (metrics["ua"].values["erased"].value > 0.5) is (eraser is not nothing)
    assert ("erased" not in metrics["ua"].struck) is (eraser is nothing)
    retained = metrics["clip_retain"].values
    assert retained["base"].value > retained["erased"].value - 1e-6


def test_an_erased_combination_is_evaluated_from_its_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UCE on the canvas: the pair is gone, and what is left of each half has a number beside the base's."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--quiet"])
        return stopped.value.code

    target, anchor = "Cats image in Van Gogh style", "Dogs image in Photo style"
    kind = ["--target", target, "--anchor", anchor, "--kind", "combination"]
    assert call("run", "--method", "uce", "--base-model", "canvas", *kind, "--out", "m") == 0
    grid = {"styles": ["Van_Gogh", "Photo", "Sketch"], "objects": ["Cats", "Dogs"], "seeds": [188, 288]}
    suite = {"name": "few", "sampler": {"steps": 8}, "scorers": {"judge": {}}, "resamples": 50}
    suite["grid"] = grid | {"held_out": "", "gold": False}
    (tmp_path / "few.yaml").write_text(json.dumps(suite))
    assert call("eval", "m", "--suite", "few.yaml", "--device", "cpu") == 0
    results = read_results(tmp_path / "m.eval")
    assert (results.model("m").kind, results.model("m").names) == ("combination", ("Van_Gogh x Cats",))
    for key, images in (("ua", 2), ("sc", 2), ("oc", 4), ("up", 4)):
        for estimate in results.metrics[key].values.values():
            assert estimate.n_images == images
            assert estimate.lo <= estimate.value <= estimate.hi
    assert results.metrics["ua"].values["base"].value < 1


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = demo.run(tmp_path / "demo", seeds=[188], progress=False)
    assert page == tmp_path / "demo" / "report" / "report.html"
    printed = capsys.readouterr().out
    assert "Van Gogh: " in printed
    assert "UA" in printed
    assert "base" in printed
