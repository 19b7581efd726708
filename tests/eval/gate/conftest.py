"""Plants the scores of a grid and of prompt files with chosen judges, broken images and attacks; measures and gates."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.gate.gates import judge
from eval.gate.strike import Struck, apply
from eval.gate.verdict import decide
from eval.measure.engine import measure
from eval.measure.view import Evidence
from eval.results import Gate, ModelInfo, SearchedAttack, Verdict
from eval.score.table import Scores, Table
from eval.suite.grid import GridRows, Target
from eval.suite.prompt_files import PromptFile, PromptFiles
from eval.suite.suite import Suite


GOLDEN = Path(__file__).parents[1] / "golden"
ABSENT = "weights absent"
STYLES, OBJECTS = ["Van_Gogh", "Photo", "Sketch", "Mosaic"], ["Cats", "Dogs", "Trees", "Flowers"]
ASPECTS = ["target_image", "multilingual_robustness", "attack_robustness", "pinpoint_ness"]
SCORERS = ("vlm", "clip", "nudity")
VAN_GOGH = Target("style", ("Van_Gogh",))
FILES = [
    PromptFile(path="t.csv", name="target_image", source="", shows="{target}"),
    PromptFile(path="p.csv", name="pinpoint", source="", shows="{noun}"),
    PromptFile(path="b.csv", name="beside", source="", shows="{nouns}", beside_target=True),
    PromptFile(path="l.csv", name="languages", source="", shows="{target}"),
    PromptFile(path="a.csv", name="attack", source="", shows="{target}", attack=True, null_file="target_image"),
    PromptFile(path="g.csv", name="general", source=""),
]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How one model answers a grid of 4 styles x 4 objects x 5 seeds: 20 images of the target and 60 others.

    Shares are of the first images of each part; the target is there or the image is a photo of the same object.
    """

    shows: float = 1.0  # of the target's images
    wordings: dict[str, float] = field(default_factory=dict)  # family -> share with the target; else ``shows``
    right: float = 1.0  # of the other images
    near: float = 1.0  # of the images of the target's neighbour, Mosaic
    alarms: float = 0.0  # of the other images in which the judge sees the target
    broken: tuple[int, int] = (0, 0)  # target images and others
    unchanged: float = 0.0  # of the other images
    same_weights: bool = False


@dataclass(frozen=True, kw_only=True)
class Files:
    """How one model answers 100 images of each prompt file; what a file shows is in the first images of it."""

    shares: dict[str, float] = field(default_factory=dict)  # file or file/language -> share, else 0.6; general: 0
    judge: Callable[[bool], bool] = lambda shows: shows  # what the judge says of an image that shows it, or not
    broken: dict[str, int] = field(default_factory=dict)  # file -> number of its last images
    seeds: dict[str, int] = field(default_factory=dict)  # file -> images of one prompt, else 1
    clip: float = 0.3
    same_weights: bool = False


@dataclass(frozen=True, kw_only=True)
class Gated:
    """What gates make of planted scores."""

    evidence: Evidence
    gates: list[Gate]
    struck: Struck
    verdicts: dict[str, Verdict]

    def keys(self, label: str = "m") -> set[str]:
        """The metrics that are struck for a model."""
        return {key for key, metric in self.struck.metrics.items() if label in metric.struck}

    def outcome(self, name: str) -> list[bool | None]:
        """Whether the gates of a name passed."""
        return [gate.passed for gate in self.gates if gate.name == name]


@pytest.fixture
def grid() -> Callable[..., Gated]:
    """Plant a grid, such as ``grid(base={}, m={"shows": 0})``: the settings of ``Grid`` for each model."""

    def plant(
        searched: Sequence[SearchedAttack] = (),
        attacks: Sequence[tuple[str, str, int, float]] = (),
        card: dict[str, Any] | None = None,
        is_judged: bool = True,
        **models: dict[str, Any],
    ) -> Gated:
        evidence = plant_grid({label: Grid(**own) for label, own in models.items()}, attacks)
        evidence = replace(evidence, cards={"judge": card or {}})
        return gate(evidence if is_judged else unjudge(evidence), searched)

    return plant


@pytest.fixture
def files() -> Callable[..., Gated]:
    """Plant prompt files, such as ``files(base={}, m={"broken": {"attack": 9}})``: the settings of ``Files``."""

    def plant(
        prompts: Sequence[PromptFile] = FILES, scorers: Sequence[str] = SCORERS, **models: dict[str, Any]
    ) -> Gated:
        return gate(plant_files({label: Files(**own) for label, own in models.items()}, list(prompts), scorers))

    return plant


@pytest.fixture
def prompt_files() -> list[PromptFile]:
    """The files that ``files`` plants unless given."""
    return FILES


@pytest.fixture
def golden_evidence() -> Callable[[str], tuple[Evidence, dict[str, Any]]]:
    """Name of a case -> its evidence, and the numbers that earlier code made of it."""
    spec = importlib.util.spec_from_file_location("golden_evidence", Path(__file__).parents[1] / "measure/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def read(case: str) -> tuple[Evidence, dict[str, Any]]:
        others = module.prompt_evidence if case.startswith("prompts") else module.grid_evidence
        expected = json.loads((GOLDEN / case / "expected.json").read_text(encoding="utf-8"))
        return module.BUILDERS.get(case, others)(case), expected

    return read


@pytest.fixture
def golden(golden_evidence: Callable[[str], tuple[Evidence, dict[str, Any]]]) -> Callable[[str], tuple[Gated, dict]]:
    """Name of a case -> what gates make of it, and what the earlier code made of it."""

    def read(case: str) -> tuple[Gated, dict[str, Any]]:
        evidence, expected = golden_evidence(case)
        setup = json.loads((GOLDEN / case / "setup.json").read_text(encoding="utf-8"))
        same = setup.get("same_weights", False)
        models = [
            replace(each, same_weights=same[each.label] if isinstance(same, dict) else same)
            if each.role == "erased"
            else each
            for each in evidence.models
        ]
        scores = dict(evidence.scores)
        for label, share in setup.get("unrelated", {}).items():
            scores[label] = Scores(scores[label].records, scores[label].arrays | unrelated(len(scores[label]), share))
        return gate(replace(evidence, models=models, scores=scores)), expected

    return read


def gate(evidence: Evidence, searched: Sequence[SearchedAttack] = ()) -> Gated:
    """Measure evidence, judge its gates, withhold numbers and decide the verdicts."""
    measured = measure(evidence)
    gates = judge(evidence, measured, searched)
    struck = apply(gates, measured, searched)
    verdicts = decide(evidence, struck.metrics, gates, struck.held_out)
    return Gated(evidence=evidence, gates=gates, struck=struck, verdicts=verdicts)


def plant_grid(models: dict[str, Grid], attacks: Sequence[tuple[str, str, int, float]] = ()) -> Evidence:
    """Plant a grid with held-out wordings.

    Args:
        models: Label -> how it answers; ``base`` is the base.
        attacks: Name, ``attack`` or ``attack_null``, number of images, and the share of them with the target.
    """
    suite = Suite(
        name="planted",
        grid=GridRows(styles=STYLES, objects=OBJECTS, seeds=[1, 2, 3, 4, 5], held_out="", gold=False),
        scorers={"judge": {}},
        metrics=ASPECTS,
        resamples=20,
    )
    return Evidence(
        suite=suite,
        models=[info(label, own.same_weights) for label, own in models.items()],
        scores={label: Scores(Table(_grid_rows(own, attacks))) for label, own in models.items()},
        targets={0: VAN_GOGH},
        provided=dict.fromkeys(("judge_style", "judge_object", "object_scores"), ""),
        neighbours={0: ["Mosaic"]},
    )


def unjudge(evidence: Evidence) -> Evidence:
    """The same without the answers of a judge."""
    empty = dict.fromkeys(("judge_style", "judge_object", "object_scores"))
    rows = {label: [row | empty for row in each.records.rows] for label, each in evidence.scores.items()}
    return replace(
        evidence,
        scores={label: Scores(Table(own)) for label, own in rows.items()},
        provided=dict.fromkeys(evidence.provided, ABSENT),
    )


def info(label: str, same_weights: bool) -> ModelInfo:
    """A base of the label ``base``, or a model of it."""
    if label == "base":
        return ModelInfo(label=label, role="base")
    return ModelInfo(label=label, role="erased", base="base", same_weights=same_weights)


def _grid_rows(own: Grid, attacks: Sequence[tuple[str, str, int, float]]) -> list[dict[str, Any]]:
    asked = [(style, obj, seed) for style in STYLES for obj in OBJECTS for seed in range(1, 6)]
    rows = []
    for style, obj, seed in asked:
        role = "target" if style in VAN_GOGH.names else "adjacent"
        rows.append({"prompt_id": f"{style}_{obj}", "role": role, "style": style, "object": obj, "seed": seed})
    parts = {role: [row for row in rows if row["role"] == role] for role in ("target", "adjacent")}
    near = [row for row in parts["adjacent"] if row["style"] == "Mosaic"]
    for row, shows in zip(parts["target"], _first(own.shows, 20), strict=True):
        row |= {"judge_style": "Van_Gogh" if shows else "Photo", "judge_object": row["object"]}
    for row, is_right in zip(parts["adjacent"], _first(own.right, 60), strict=True):
        wrong = {"judge_style": "Sepia", "judge_object": "Humans"}
        row |= {"judge_style": row["style"], "judge_object": row["object"]} if is_right else wrong
    for row, is_right in zip(near, _first(own.near, 20), strict=True):
        row["judge_style"] = row["judge_style"] if is_right else "Sepia"
    for row, is_alarm in zip(parts["adjacent"], _first(own.alarms, 60), strict=True):
        row["judge_style"] = "Van_Gogh" if is_alarm else row["judge_style"]
    for part, count in zip(parts.values(), own.broken, strict=True):
        for row in part[:count]:
            row["broken"] = "blank"
    for row, is_same in zip(parts["adjacent"], _first(own.unchanged, 60), strict=True):
        row["same_as_base"] = is_same
    rows = [{"family": "template"} | row for row in rows]
    for family in ("paraphrase", "alias", "language"):
        share = own.wordings.get(family, own.shows)
        rows += _worded(
            family, {"family": family, "language": "French" if family == "language" else "English"}, 10, share
        )
    for attack, family, count, share in attacks:
        rows += _worded(f"{family} {attack}", {"family": family, "attack": attack}, count, share)
    empty = {"broken": "", "same_as_base": False, "drift": 0.1, "wall_s": 0.1, "language": "", "attack": ""}
    return [empty | _named(row) for row in rows]


def _worded(name: str, columns: dict[str, str], count: int, share: float) -> list[dict[str, Any]]:
    """Two seeds of each wording."""
    return [
        columns
        | {"prompt_id": f"{name} {place // 2}", "seed": place % 2, "role": "", "style": "Van_Gogh", "object": "Cats"}
        | {"judge_style": "Van_Gogh" if shows else "Photo", "judge_object": "Cats"}
        for place, shows in enumerate(_first(share, count))
    ]


def _named(row: dict[str, Any]) -> dict[str, Any]:
    name = f"{row['prompt_id']}_{row['seed']}"
    scores = [0.0] * 12
    return row | {"key": name, "prompt": row["prompt_id"], "latent_hash": name, "object_scores": scores}


def _first(share: float, count: int) -> list[bool]:
    return [place < share * count for place in range(count)]


def plant_files(models: dict[str, Files], prompts: list[PromptFile], scorers: Sequence[str] = SCORERS) -> Evidence:
    """Plant 100 images of each prompt file, of another prompt each; ``base`` is the base."""
    names = [file.label for file in prompts]
    provided = {"vlm": ["shown"], "clip": ["clip", "array:clip"], "nudity": ["detections"]}
    arrays = unrelated(100 * len(names), 0.1) if "clip" in scorers else {}
    scores = {label: Scores(Table(_file_rows(own, names)), arrays) for label, own in models.items()}
    return Evidence(
        suite=Suite(
            name="planted",
            prompts=PromptFiles(files=prompts, target="Van Gogh", kind="style"),
            scorers={name: {} for name in scorers},
            resamples=20,
        ),
        models=[info(label, own.same_weights) for label, own in models.items()],
        scores=scores,
        provided=dict.fromkeys([column for name in scorers for column in provided[name]], ""),
    )


def unrelated(count: int, share: float) -> dict[str, np.ndarray]:
    """CLIP features of images and texts whose cosine is a number wherever one meets another."""
    images, texts = np.array([1.0, 0.0]), np.array([share, (1 - share**2) ** 0.5])
    return {"clip": np.tile(images, (count, 1)), "clip_texts": np.tile(texts, (count, 1))}


def _file_rows(own: Files, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for file in names:
        for place in range(100):
            language = ("English", "French", "German")[place % 3] if file == "languages" else ""
            share = own.shares.get(f"{file}/{language}", own.shares.get(file, 0.6 if file != "general" else 0.0))
            rows.append(
                {
                    "key": f"{file}_{place}",
                    "prompt_id": f"{file}_{place:02d}",
                    "prompt": f"{file} {place // own.seeds.get(file, 1)}",
                    "family": file,
                    "language": language,
                    "latent_hash": str(place),
                    "clip": own.clip,
                    "drift": 0.1,
                    "detections": [],
                    "broken": "blank" if place >= 100 - own.broken.get(file, 0) else "",
                    "same_as_base": False,
                    "wall_s": 0.1,
                    "shown": [own.judge(place < share * 100)],
                }
            )
    return rows
