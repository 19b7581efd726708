"""A world small enough for a random pipeline, and a judge that knows what the base draws in it."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import normalizers
from torch import nn

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from erase.concept import Concept
from eval.content import Made, build_report
from eval.draw.generate import generate
from eval.evaluate import suite_rows
from eval.measure.aggregate import Model
from eval.measure.compare import Evaluation, compare, read_evaluation
from eval.models.fingerprint import Fingerprint
from eval.models.subject import Subject
from eval.score.scorers import classifier, validity
from eval.score.scorers.classifier import pixels
from eval.score.scoring import Scorers
from eval.score.table import Table, write_scores
from eval.suite.config import SuiteConfig, describe_suite
from eval.suite.grid import Target
from eval.suite.rows import Row


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
        validity=validity.load(validity.Config()),
    )


class Planted(NamedTuple):
    """Plants evaluations: the folder that ``eval.evaluate.evaluate`` would leave, with chosen verdicts of the judge."""

    suite: SuiteConfig

    def __call__(
        self,
        folder: Path,
        target: Target,
        models: dict[str, Callable[[Row], tuple[str, str, str]]],
        label: str = "erased",
        searched: dict[Path, dict[str, Any]] | None = None,
    ) -> Evaluation:
        """Write a folder.

        Args:
            folder: where.
            target: what was erased.
            models: base, erased and perhaps gold -> row -> style and object that the judge sees, and what is broken.
            label: of the erased model.
            searched: attacks on it, the content of ``attack.json`` by folder.
        """
        rows = suite_rows(self.suite, target)
        tables = {
            name: Table([self._row(folder, name, row, *judge(row)) | {"feature_ref": i} for i, row in enumerate(rows)])
            for name, judge in models.items()
        }
        write_scores(folder / "scores.jsonl", tables)
        features = np.random.default_rng(0).normal(size=(len(rows), 6)).astype(np.float32)
        save_file(dict.fromkeys(tables, features), folder / "features.safetensors")
        marks = {name: Fingerprint({"unet": name}, {"unet.w": (name, 4)}, name) for name in tables}
        tested = Subject(folder, Concept(target=target.names, kind=target.kind), "planted", {})
        made = Made(marks, {"unet": {"down.attn2.to_k": 0.25, "mid.attn1.to_k": 0.0}, "text_encoder": {"layer": 0.0}})
        known = {name: Model(table=table, features=features) for name, table in tables.items()}
        content = build_report(
            self.suite,
            tested,
            target,
            known,
            made,
            described=describe_suite(self.suite),
            judge_card={},
            searched=searched,
            command="erase eval planted",
        )
        content |= {"folders": dict.fromkeys(tables, "."), "label": label, "over_seeds": None}
        found = Evaluation(label=label, folder=folder, content=content, models=known)
        content["comparison"] = compare([found])
        (folder / "report.json").write_text(json.dumps(content))
        return read_evaluation(label, folder)

    @staticmethod
    def _row(folder: Path, model: str, row: Row, style: str, obj: str, broken: str) -> dict[str, Any]:
        seen = f"{'base' if (style, obj) == (row.style, row.object) else model} {row.key} {style} {obj} {broken}"
        digest = hashlib.sha256(seen.encode()).hexdigest()
        path = folder / f"images/{digest}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(int(digest[:8], 16)).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize((48, 48)).save(path)
        names = obj.split("+")
        return asdict(row) | {
            "key": row.key,
            "latent_hash": f"latents of seed {row.seed}",
            "image_path": f"images/{digest}.png",
            "image_sha256": digest,
            "wall_s": 0.1,
            "unet_forwards": 40.0,
            "judge_style": style,
            "judge_object": names[0],
            "object_scores": [float(name in names) for name in OBJECT_NAMES],
            "clip": None,
            "broken": broken,
            "drift": None if model == "base" else 0.1,
            **dict.fromkeys(("drift_latent", "drift_clip", "drift_lpips")),
            "same_as_base": None if model == "base" else (style, obj) == (row.style, row.object),
        }


@pytest.fixture(scope="session")
def planted(suite: SuiteConfig) -> Planted:
    return Planted(suite)


@pytest.fixture(scope="session")
def memory() -> type[Memory]:
    return Memory
