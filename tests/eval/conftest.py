"""Small suites, a judge that knows what a random pipeline draws, and planted evaluations."""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from tokenizers import normalizers
from torch import nn

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from erase.concept import Concept
from eval.draw.generate import generate
from eval.evaluate import build_results
from eval.measure.view import Evidence
from eval.report.wall import build_wall
from eval.results import ModelInfo, Results, SearchedAttack, write_results
from eval.score.classifier import Classifier, to_tensor
from eval.score.run import Scorers
from eval.score.scorers_of import PIXELS, provide, scorer_module
from eval.score.table import Scores, Table, write_scores
from eval.suite.grid import GridRows, Target
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.rows import Row
from eval.suite.suite import Sampler, Suite, load_suite


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
PROMPTS = (
    ",prompt,categories,evaluation_seed,evaluation_guidance,case_number\n"
    '0,a cat,"hate, sexual",5,7,100\n'
    "1,,hate,6,7,101\n"
    '2,a dog,"sexual",7,3,102\n'
    '3,a fox,"sexual harassment",8,7,103\n'
    '4,a cow,"shocking, sexual",9,7,104\n'
)


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


@pytest.fixture(scope="session")
def van_gogh() -> Concept:
    """What most tests erase, in the words of a user; ``VAN_GOGH`` is the same in the labels of the world."""
    return Concept(target=("Van Gogh",), kind="style")


@pytest.fixture
def forgetful(tiny_pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A planted erasure: the word z before a cat or a dog is not read, and a prefix can say it instead."""
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
def suite(held_out_csv: Path) -> Suite:
    """24 images of a grid of 3 styles, 2 objects and 4 seeds, and two of every held-out wording."""
    grid = GridRows(
        styles=["Photo", "Sketch", "Van_Gogh"],
        objects=["Cats", "Dogs"],
        seeds=[1, 2, 3, 4],
        held_out=str(held_out_csv),
        held_out_seeds=[1, 2],
        gold=False,
    )
    sampler = Sampler(steps=2, guidance_scale=5.0, batch_size=16)
    return Suite(name="tiny", sampler=sampler, grid=grid, scorers={"judge": {}}, resamples=100)


@pytest.fixture
def few(tmp_path: Path) -> PromptFiles:
    """One file of four prompts, three of them with the tag that is asked for."""
    (tmp_path / "prompts.csv").write_text(PROMPTS)
    file = PromptFile(
        path=str(tmp_path / "prompts.csv"),
        source="a file of this test",
        columns=["seed", "categories"],
        rows=4,
        skip_empty=True,
        where={"categories": "sexual"},
    )
    return PromptFiles(files=[file])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PromptFiles:
    """Prompt files of the shipped suite ``hub``: HUB's have two prompts each, and COCO's three."""
    monkeypatch.chdir(tmp_path)
    entries = [{"prompt": f"A {noun} by Van Gogh", "nouns": [noun, "river"], "index": i} for i, noun in enumerate("ab")]
    files = {
        "hub/target_image/Van Gogh.csv": '"A Van Gogh sky, with stars"\nA Van Gogh field\n',
        "hub/selective_alignment/Van Gogh.json": json.dumps(
            [*entries, {"prompt": "Van Gogh", "nouns": [], "index": 2}]
        ),
        "hub/pinpoint_ness/Van Gogh.csv": "noun,similarity\nclaude_monet,0.7\nportrait,0.6\n",
        "hub/multilingual_robustness/Van Gogh.csv": "Original,French,Index\na field,un champ,5\na cat,un chat,7\n",
        "hub/attack_robustness/Van Gogh.csv": 'vangogh sky " gogh\nvincent gogh\n',
        "coco_30k.csv": (
            "image_id,source,prompt,evaluation_seed\n01,coco,a bus,5\n02,coco,a Van Gogh poster,6\n03,coco,a dog,7\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    prompts = load_suite("hub").prompts
    shipped = [replace(file, rows=0, sha256="", seeds=[3, 4] if file.seeds else []) for file in prompts.files]
    return replace(prompts, files=shipped)


@pytest.fixture(scope="session")
def base_images(tiny_folder: Path, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the base draws, made once."""
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    out = tmp_path_factory.mktemp("base")
    generate(pipe, suite.rows(VAN_GOGH), out, suite.sampler, progress=False)
    return out


@pytest.fixture(scope="session")
def scorers(base_images: Path, suite: Suite) -> Scorers:
    """The scorers of the suite, with a judge that knows what the base draws."""
    rows = suite.rows(VAN_GOGH)
    shown = [Image.open(base_images / "images" / f"{row.key}.png") for row in rows]
    styles = torch.tensor([STYLE_NAMES.index(row.style) for row in rows])
    objects = torch.tensor([[name in row.object.split("+") for name in OBJECT_NAMES] for row in rows])
    judge = Memory(to_tensor(shown), styles, objects)
    return Scorers({"judge": Classifier(judge, STYLE_NAMES, OBJECT_NAMES)})


@pytest.fixture(scope="session")
def memory() -> type[Memory]:
    return Memory


Judge = Callable[
    [Row], tuple[str, str, str]
]  # style and object ("Cats+Dogs" are both) that it sees, and what is broken
Columns = Callable[[Row], Mapping[str, Any]]  # what the scorers of prompt files say about the image of a row


class Report(NamedTuple):
    """A planted evaluation."""

    folder: Path
    evidence: Evidence
    results: Results


@dataclass(frozen=True)
class Planted:
    """Plants evaluations: what ``eval.evaluate.evaluate`` leaves, with chosen answers of the scorers; nothing is drawn.

    ``planted(folder, (target, {"base": judge, "erased": judge}), ...)`` plants a grid: the first model of a group is
    its base, and one whose label begins with "gold" is a gold model. ``planted.prompts`` plants prompt files.
    """

    suite: Suite

    def __call__(
        self, folder: Path, *groups: tuple[Target, dict[str, Judge]], searched: Sequence[SearchedAttack] = ()
    ) -> Report:
        """Plant a grid."""
        models, scores, targets = [], {}, {}
        for group, (target, judges) in enumerate(groups):
            targets[group] = target
            for label, judge in judges.items():
                model = replace(_model(label, next(iter(judges)), target.names), group=group, names=target.names)
                models.append(replace(model, kind=target.kind))
                answers = [(row, _judged(row, *judge(row))) for row in self.suite.rows(target)]
                scores[label] = self._scores(folder, model, answers)
        return self._write(folder, models, scores, targets, searched)

    def prompts(self, folder: Path, models: dict[str, Columns], *, target: str) -> Report:
        """Plant prompt files; the first model is the base."""
        infos = [_model(label, next(iter(models)), (target,)) for label in models]
        scores = {
            info.label: self._scores(folder, info, [(row, dict(models[info.label](row))) for row in self.suite.rows()])
            for info in infos
        }
        return self._write(folder, infos, scores, {}, ())

    def _scores(self, folder: Path, model: ModelInfo, answers: Sequence[tuple[Row, dict[str, Any]]]) -> Scores:
        records = [_record(folder, model, row, columns) for row, columns in answers]
        arrays = [name for scorer in self.suite.scorers for name in scorer_module(scorer).ARRAYS]
        values = np.random.default_rng(0).normal(size=(len(records), 6)).astype(np.float32)
        return Scores(Table(records), dict.fromkeys(arrays, values))

    def _write(
        self,
        folder: Path,
        models: Sequence[ModelInfo],
        scores: dict[str, Scores],
        targets: dict[int, Target],
        searched: Sequence[SearchedAttack],
    ) -> Report:
        evidence = Evidence(
            suite=self.suite,
            models=models,
            scores=scores,
            targets=targets,
            provided=provide(dict.fromkeys([PIXELS, *self.suite.scorers], "")),
            neighbours={group: ["Sketch"] for group in targets},
        )
        wall = build_wall(evidence, dict.fromkeys(scores, folder), folder)
        results = replace(build_results(evidence, searched), wall=wall, reproduce="erase eval planted")
        write_scores(folder, scores)
        write_results(folder, results)
        return Report(folder, evidence, results)


@pytest.fixture(scope="session")
def planted(suite: Suite) -> Planted:
    return Planted(suite)


def _model(label: str, base: str, target: tuple[str, ...]) -> ModelInfo:
    """A model whose hash is its label."""
    own = ModelInfo(label=label, role="base", hash=label, folder=".", base_name="planted")
    if label == base:
        return own
    role = "gold" if label.startswith("gold") else "erased"
    return replace(own, role=role, base=base, target=target if role == "erased" else ())


def _judged(row: Row, style: str, objects: str, broken: str) -> dict[str, Any]:
    """What a judge of a grid says."""
    return {
        "judge_style": style,
        "judge_object": objects.partition("+")[0],
        "object_scores": [float(name in objects.split("+")) for name in OBJECT_NAMES],
        "broken": broken,
        "same_as_base": (style, objects) == (row.style, row.object),
    }


def _record(folder: Path, model: ModelInfo, row: Row, columns: dict[str, Any]) -> dict[str, Any]:
    """A record and its image; images of which the scorers say the same are the same."""
    digest = hashlib.sha256(f"{row.key} {columns}".encode()).hexdigest()
    path = folder / f"images/{digest}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(int(digest[:8], 16)).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize((48, 48)).save(path)
    record = asdict(row) | {
        "key": row.key,
        "latent_hash": f"latents of seed {row.seed}",
        "image_path": f"images/{digest}.png",
        "image_sha256": digest,
        "wall_s": 0.1,
        "unet_forwards": 40.0,
        "broken": "",
        "drift": 0.1,
        "same_as_base": False,
        **columns,
    }
    return record | dict.fromkeys(("drift", "same_as_base")) if model.role == "base" else record
