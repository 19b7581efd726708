"""What ``report.json`` holds, and its only reader and writer; every other stage passes these objects on.

A number of a model stands under the model's label. Labels are unique within a report.
"""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs

from eval.files import REPORT, write_json
from eval.measurements import (
    Cell,
    ConceptAccuracy,
    Curve,
    Estimate,
    MetricResult,
    OverSeeds,
    PairDifferences,
    Sequence,
    Wording,
)


SCHEMA_VERSION = 4  # of report.json, for every suite
KINDS = ("grid", "prompts")  # where the rows of a suite come from
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model of a report.

    Attributes:
        label: What the report calls it.
        role: ``erased``, ``base`` or ``gold``.
        group: Models of one target and one base are one group; their rows are the same.
        base: Label of its base; empty for a base.
        hash: Of the weights and of the pipeline's class.
        folder: Of its images, from the folder of the report.
        target: What was erased, in the user's words; empty for a base without a target.
        names: The same as labels of the suite's world; empty for prompt files.
        kind: Of the target.
        anchor: What the target was mapped to.
        source: Where the model was loaded from.
        base_name: Where its base was loaded from.
        same_weights: Whether nothing was removed from the weights: they are the base's, tensor by tensor.
        card: What ``erasure.json`` says: method, config, seed, base, cost.
    """

    label: str
    role: str
    group: int = 0
    base: str = ""
    hash: str = ""
    folder: str = ""
    target: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    kind: str = ""
    anchor: str = ""
    source: str = ""
    base_name: str = ""
    same_weights: bool = False
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A check that withholds numbers of one model where it fails.

    Attributes:
        name: Such as ``judge`` or ``validity``.
        model: Label of the model whose numbers are withheld, or of the base that is checked for all of its models.
        passed: None where it could not be checked.
        sentence: What was found and what was required.
        withholds: Label -> keys of the metrics that are struck.
    """

    name: str
    model: str
    passed: bool | None
    sentence: str
    withholds: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a report says of one model, in a word, a sentence, and the numbers behind them."""

    code: str
    sentence: str
    reasons: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Success of an attack, of one of its nulls, or without an attack."""

    name: str  # for people
    arm: str  # ``base``, ``before``, ``attack`` or the name of the null
    total: Estimate  # share of prompts
    per_image: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class SearchedAttack:
    """What the report keeps of one ``erase attack``.

    Attributes:
        label: The model that was attacked.
        folder: Name of the folder of the attack.
        attack: Name of the attack.
        settings: All of its settings.
        budget: In words.
        n_prompts: How many prompts were attacked.
        cost: ``seconds``, ``unet_forwards`` and ``unet_backwards`` of the search.
        suite: ``name``, ``version`` and ``hash`` of the suite it used.
        protocol: Equal for attacks with equal prompts, seeds, suite and budget.
        arms: Base and model without an attack, the attack, and each null.
        excess: Over the stronger null; None without a null.
        null: Name of that null.
        is_foreign: It was run on other weights, another target or with another judge.
        without_null: Why there is no null of as many images; empty if there is one.
        struck: Why the numbers may not be read; empty if they may.
        reproduce: The command.
    """

    label: str
    folder: str
    attack: str
    settings: dict[str, Any]
    budget: str
    n_prompts: int
    cost: dict[str, float]
    suite: dict[str, Any]
    protocol: str
    arms: tuple[Arm, ...]
    excess: Estimate | None = None
    null: str = ""
    is_foreign: bool = False
    without_null: str = ""
    struck: str = ""
    reproduce: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What one model costs.

    Attributes:
        erasure: What ``erasure.json`` says of the training; None for an import or a base.
        storage_bytes: Of the artefact's folder; None for a pipeline that is not on disk.
        footprint: How much of the weights differs from the base's: components, tensors, tensors_of, parameters, ...
        seconds_per_image: Wall clock.
        forwards_per_image: Of the denoiser in samples; None where they were not counted.
        images: How many were drawn.
    """

    erasure: dict[str, Any] | None = None
    storage_bytes: int | None = None
    footprint: dict[str, Any] | None = None
    seconds_per_image: float | None = None
    forwards_per_image: float | None = None
    images: int = 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the evaluation and its models cost; ``evaluation`` has seconds, loading_seconds and outside."""

    evaluation: dict[str, float] = field(default_factory=dict)
    models: dict[str, ModelCost] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WallRow:
    """One row of the image wall: what was asked for."""

    group: int
    style: str
    object: str
    seed: int
    part: str  # ``target``, ``other``, ``held-out``, ``attack``; for prompt files the name of the file
    prompt: str


@dataclass(frozen=True, kw_only=True)
class WallMark:
    """One image of the wall: the file, its badge, what the judge sees, and a score in words."""

    image: str  # path from the folder of the report
    sha256: str
    badge: str
    seen: str
    score: str = ""


@dataclass(frozen=True, kw_only=True)
class Wall:
    """The rows of the image wall, and label -> one mark for every row of the model's group.

    ``is_pixelated``: images may be explicit, so that the page shows nothing that can be made out.
    """

    badges: tuple[str, ...] = ()
    saw: str = ""  # what goes before what is seen
    rows: list[WallRow] = field(default_factory=list)
    marks: dict[str, list[WallMark]] = field(default_factory=dict)
    is_pixelated: bool = False


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made the numbers: versions, the machine, the time in UTC, and what each scorer says about itself."""

    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    written: str = ""
    cards: dict[str, Any] = field(default_factory=dict)  # scorer -> its card, or why it did not run


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report shows.

    Attributes:
        kind: ``grid`` or ``prompts``: where the rows of the suite come from.
        suite: The suite's settings as plain data, with ``hash`` and ``prompt_files``.
        models: In the order of the columns: of each group its base, gold, and the erased models.
        metrics: Key -> result.
        verdicts: Label of an erased model -> verdict; empty for prompt files.
        gates: In the order in which they were applied.
        neighbours: Group (as text) -> the concepts nearest to its target.
        layers: Label -> component -> layer -> relative change of the weights; None where the base lacks the layer.
        images: Images per model.
        reproduce: The command.
    """

    kind: str
    suite: dict[str, Any]
    models: list[ModelInfo]
    schema_version: int = SCHEMA_VERSION
    metrics: dict[str, MetricResult] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    differences: list[PairDifferences] = field(default_factory=list)
    held_out: list[Wording] = field(default_factory=list)
    attacks: list[Wording] = field(default_factory=list)
    searched: list[SearchedAttack] = field(default_factory=list)
    concepts: list[ConceptAccuracy] = field(default_factory=list)
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    sequence: Sequence | None = None
    over_seeds: list[OverSeeds] = field(default_factory=list)
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    layers: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    images: int = 0
    wall: Wall = field(default_factory=Wall)
    cost: Cost = field(default_factory=Cost)
    provenance: Provenance = field(default_factory=Provenance)
    reproduce: str = ""

    def model(self, label: str) -> ModelInfo:
        """The model of a label.

        Raises:
            KeyError: there is none.
        """
        return next((each for each in self.models if each.label == label), None) or _unknown(label)

    @property
    def erased(self) -> list[ModelInfo]:
        """The models under test."""
        return [model for model in self.models if model.role == "erased"]


def write_results(folder: Path, results: Results) -> Path:
    """Write ``report.json``, whole or not at all.

    Raises:
        ValueError: Two models have one label, or a number is not finite, which JSON cannot hold.
    """
    path = folder / REPORT
    labels = [model.label for model in results.models]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"Two models of the report are called {twice[0]!r}: rename a folder.")
    try:
        write_json(path, cattrs.unstructure(results), allow_nan=False)
    except ValueError as error:
        raise ValueError(f"A number of the report is not finite ({error}): score the images again.") from error
    return path


def read_results(folder: Path) -> Results:
    """Read ``report.json`` of an evaluation.

    Raises:
        FileNotFoundError: the folder holds no evaluation.
        ValueError: it is damaged, or of another version.
    """
    path = folder / REPORT
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run `erase eval` with this output folder first.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it, or choose another folder.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version == SCHEMA_VERSION and content.get("kind") not in KINDS:
        raise ValueError(f"{path} is of no kind of suite that is known: delete it, or choose another folder.")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has the report format {version}, but {SCHEMA_VERSION} is read: move it away and run `erase eval` "
            "with this output folder again."
        )
    try:
        return cattrs.structure(content, Results)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no report of this format: delete it, or choose another folder.") from error


def make_provenance(cards: Mapping[str, Any]) -> Provenance:
    """The versions of what decides a number, the machine and the time, beside the cards of the scorers."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return Provenance(
        versions=versions | {"python": platform.python_version()},
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cards=dict(cards),
    )


def _unknown(label: str) -> ModelInfo:
    raise KeyError(f"The report has no model {label!r}.")
