"""A world small enough for a random pipeline, and a judge that knows what the base draws in it."""

import csv
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from tokenizers import normalizers
from torch import nn

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from eval.config import SuiteConfig
from eval.generate import generate
from eval.grid import Target
from eval.scorers import classifier, features, validity
from eval.scorers.classifier import pixels
from eval.scoring import Scorers
from eval.suite import suite_rows


HELD_OUT = [
    ("paraphrase", "", "cell", "Cats shown in Van Gogh style", "Van_Gogh", "Cats", "English"),
    ("alias", "Van_Gogh", "style", "A Cats image in starry night painter style.", "Van_Gogh", "Cats", "English"),
    ("alias", "Van_Gogh", "style", "A Dogs image in starry night painter style.", "Van_Gogh", "Dogs", "English"),
    ("alias", "Cats", "object", "A kitty image in Photo style.", "Photo", "Cats", "English"),
    ("language", "", "cell", "une image de chat en style peintre", "Van_Gogh", "Cats", "French"),
    ("language", "", "cell", "ein bild von hund im stil sternennacht", "Van_Gogh", "Dogs", "German"),
    ("two_object", "", "cell", "A Cats and Dogs image in Van Gogh style.", "Van_Gogh", "Cats+Dogs", "English"),
]
VAN_GOGH = Target("style", ("Van_Gogh",))


class JudgeOutput(NamedTuple):
    style_logits: torch.Tensor
    object_logits: torch.Tensor
    features: torch.Tensor


class Memory(nn.Module):
    """Recognises images that lie close to one it has seen, and is sure of nothing elsewhere."""

    def __init__(self, images: torch.Tensor, styles: torch.Tensor, objects: torch.Tensor) -> None:
        super().__init__()
        self.images, self.styles, self.objects = images.flatten(1), styles, objects  # objects: (n, 12) bool
        self.eval()

    def forward(self, batch: torch.Tensor) -> JudgeOutput:
        gap = torch.cdist(batch.flatten(1).double(), self.images.double()) ** 2 / batch[0].numel()
        closeness = (10 - 4e4 * gap).clamp(-10, 10).float()  # (B, n)
        style = torch.stack([self._best(closeness, self.styles == k) for k in range(len(STYLE_NAMES))], 1)
        obj = torch.stack([self._best(closeness, self.objects[:, k]) for k in range(len(OBJECT_NAMES))], 1)
        return JudgeOutput(style, obj, batch.mean((2, 3)))

    @staticmethod
    def _best(closeness: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return closeness[:, known].amax(1) if known.any() else torch.full((len(closeness),), -10.0)


@pytest.fixture
def forgetful(tiny_pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A planted erasure: the word z in front of a cat or a dog is not read, and a prefix can say it in its place."""
    backend = tiny_pipe.tokenizer.backend_tokenizer
    forget = [normalizers.Replace(f"z {name}", name) for name in ("cat", "dog")]
    backend.normalizer = normalizers.Sequence([backend.normalizer, *forget])
    return tiny_pipe


@pytest.fixture(scope="session")
def held_out_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "held_out.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["family", "concept", "kind", "prompt", "style", "object", "language"])
        writer.writerows(HELD_OUT)
    return path


@pytest.fixture(scope="session")
def suite(held_out_csv: Path) -> SuiteConfig:
    return SuiteConfig(
        name="tiny",
        styles=["Photo", "Sketch", "Van_Gogh"],
        objects=["Cats", "Dogs"],
        seeds=[1, 2, 3, 4],
        held_out=str(held_out_csv),
        held_out_seeds=[1, 2],
        num_inference_steps=2,
        guidance_scale=5.0,
        batch_size=16,
        gold=False,
        clip="",
        resamples=100,
    )


@pytest.fixture(scope="session")
def base_images(tiny_folder: Path, suite: SuiteConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the base draws, made once; also the cache of the suite tests."""
    out = tmp_path_factory.mktemp("base")
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    generate(pipe, suite_rows(suite, VAN_GOGH), out, num_inference_steps=2, guidance_scale=5.0, progress=False)
    return out


@pytest.fixture(scope="session")
def scorers(base_images: Path, suite: SuiteConfig) -> Scorers:
    rows = suite_rows(suite, VAN_GOGH)
    shown = [Image.open(base_images / "images" / f"{row.key}.png") for row in rows]
    styles = torch.tensor([STYLE_NAMES.index(row.style) for row in rows])
    objects = torch.tensor([[name in row.object.split("+") for name in OBJECT_NAMES] for row in rows])
    judge = Memory(pixels(shown), styles, objects)
    return Scorers(
        classifier=classifier.load(classifier.Config(judge=judge)),
        features=features.load(features.Config(judge=judge)),
        validity=validity.load(validity.Config()),
    )


@pytest.fixture(scope="session")
def memory() -> type[Memory]:
    return Memory
