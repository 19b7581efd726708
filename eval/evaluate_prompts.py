"""Suites without a style x object grid: the user's prompt files -> images of base and models -> scores -> report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DiffusionPipeline
from safetensors.numpy import save_file

from eval.draw.generate import generate, image_settings, process_state
from eval.draw.placement import Drawing, place_evaluation
from eval.files import replacing, write_json
from eval.gate.prompt_gates import apply_gates
from eval.measure.prompt_metrics import OF_SCORER, Scores, measure, nudity_curves
from eval.models import subject
from eval.models.clock import Clock, drawing_modules
from eval.models.fingerprint import Fingerprint, fingerprint, hash_json
from eval.models.subject import Subject
from eval.provenance import environment
from eval.report import prompt_report
from eval.score.prompt_scoring import PromptScorers, load_scorers, real_features, score_all
from eval.score.table import write_scores
from eval.score.weights import mark_unpublished
from eval.suite.prompt_config import PromptSuiteConfig, aim, prompt_suite_hash, suite_rows
from eval.suite.rows import Row


SCHEMA_VERSION = 1


class Named(NamedTuple):
    """A model under test, and what the report calls it."""

    label: str
    subject: Subject


class SuiteReport(NamedTuple):
    """The report, and whether all of the suite's scorers had their weights."""

    report: Path
    is_judged: bool


def evaluate(
    models: Sequence[Named],
    config: PromptSuiteConfig,
    out: Path,
    *,
    cache: Path | None = None,
    scorers: PromptScorers | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    command: str = "",
) -> SuiteReport:
    """Draw the rows of a suite with every model and its base, score the images, and write one report of all models.

    A stopped evaluation goes on with the images that ``out`` and ``cache`` hold. Images of other models or settings in
    ``out`` stay alone: everything then goes into a folder beside it.

    Args:
        models: What is evaluated, each with its base; labels are folder names.
        config: The suite.
        out: Folder for ``<label>/images``, ``scores.jsonl``, ``features.safetensors`` and the report.
        cache: Folder that keeps the base's images for other evaluations; ``out/reference`` if not given.
        scorers: In the place of the suite's own.
        device: Where the models run.
        dtype: Of the models.
        progress: Show progress bars.
        command: How to repeat this, printed in the report.

    Returns:
        The path of ``report.html``, and whether everything that the suite asks for was scored.

    Raises:
        FileNotFoundError: a prompt file or weights that are not there.
        ValueError: two models of one label, or another prompt file than the suite means.
    """
    clock = Clock()
    _check_labels([model.label for model in models])
    config = aim(config, [model.subject.concept for model in models])
    rows = suite_rows(config)
    with clock.load():
        scorers = scorers or load_scorers(config, device=device)  # before hours of generation: weights may be damaged
        cache = cache or out / "reference"  # of that name for all settings
        drawings = [Drawing(model.label, model.subject, rows) for model in models]
        out = place_evaluation(out, drawings, config, device=device, dtype=dtype)
    scorers = scorers.asked(config)
    drawn = _Drawn(config, rows, clock, progress=progress)
    bases = _base_labels(models)
    for key, label in bases.items():
        one = next(model.subject for model in models if _base_key(model) == key)
        with clock.load():
            pipe = subject.open_base(one, device=device, dtype=dtype)
        drawn.make(label, pipe, drawn.cached(pipe, cache))
        del pipe  # one model at a time
    for model in models:
        with clock.load():
            pipe = subject.open_erased(model.subject, device=device, dtype=dtype)
        drawn.make(model.label, pipe, out / model.label)
        del pipe
    state = process_state()
    state.wait_for_everyone()
    is_judged = scorers.is_complete(config)
    if not state.is_main_process:  # every process generates its share of the images, one scores them all
        return SuiteReport(out / "report.html", is_judged)
    with clock.load():
        scorers = scorers.opened()
    of_base = {model.label: bases[_base_key(model)] for model in models}
    with clock.watch(scorers.networks()):
        found, kept = score_all(drawn.folders, rows, scorers, of_base)
        write_scores(out / "scores.jsonl", {label: scores.table for label, scores in found.items()})
        with replacing(out / "features.safetensors") as partial:
            save_file(kept, partial)
        of_a_base = drawn.folders[next(iter(bases.values()))]
        real = real_features(scorers, config, of_a_base, rows, cache)
    cards = scorers.cards()
    content = build_report(config, models, found, drawn.marks, of_base, cards=cards, real=real, command=command)
    content["folders"] = {label: os.path.relpath(folder, out) for label, folder in drawn.folders.items()}
    content["provenance"] = environment() | cards
    content["cost"] = {"evaluation": clock.spent}
    write_json(out / "report.json", content)
    return SuiteReport(prompt_report.render(out), is_judged)


def build_report(
    config: PromptSuiteConfig,
    models: Sequence[Named],
    scores: Mapping[str, Scores],
    marks: Mapping[str, Fingerprint],
    of_base: Mapping[str, str],
    *,
    cards: Mapping[str, Any] | None = None,
    real: np.ndarray | None = None,
    command: str = "",
) -> dict[str, Any]:
    """The content of ``report.json`` from the scores; nothing is generated or judged here.

    Args:
        config: The suite.
        models: What was evaluated.
        scores: Label -> scores, of models and bases.
        marks: Label -> hashes of the weights, of the same.
        of_base: Label of a model -> label of its base.
        cards: What the scorers say about themselves.
        real: Inception features of real images (N, 2048).
        command: How to repeat this.

    Raises:
        ValueError: the models' images are not paired.
    """
    metrics = measure(scores, config, real=real)
    of_inception = [key for key in metrics if key.partition("@")[0] in OF_SCORER["inception"]]
    mark_unpublished(metrics, of_inception, (cards or {}).get("inception", {}))
    same = {label: marks[label].same_weights(marks[base]) for label, base in of_base.items()}
    described = {
        model.label: {
            "source": model.subject.name,
            "base": of_base[model.label],
            "base_name": model.subject.base_name,
            "target": list(model.subject.concept.target),
            "method": model.subject.card.get("method"),
        }
        for model in models
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": asdict(config) | {"hash": prompt_suite_hash(config)},
        "is_explicit": config.is_explicit([model.subject.concept for model in models]),
        "models": described,
        "columns": [{"label": label, "base": each.base, "hash": marks[label].model} for label, each in scores.items()],
        "images": len(next(iter(scores.values())).table),
        "gates": apply_gates(metrics, scores, config, same),
        "metrics": metrics,
        "curves": nudity_curves(scores),
        "reproduce": command,
    }


class _Drawn:
    """Where the images of each model are, and what hash each model has."""

    def __init__(self, config: PromptSuiteConfig, rows: Sequence[Row], clock: Clock, *, progress: bool) -> None:
        self.config, self.rows, self.clock, self.progress = config, rows, clock, progress
        self.folders: dict[str, Path] = {}
        self.marks: dict[str, Fingerprint] = {}

    def cached(self, pipe: DiffusionPipeline, cache: Path) -> Path:
        """The folder in the cache for this model, its settings and these rows; ids of two prompt files may be equal."""
        settings = image_settings(pipe, self.config.num_inference_steps, self.config.guidance_scale)
        rows = [(row.key, row.prompt, row.guidance_scale) for row in self.rows]
        return cache / hash_json([settings, rows])[:16]

    def make(self, label: str, pipe: DiffusionPipeline, folder: Path) -> None:
        """Draw what is missing."""
        with self.clock.watch(drawing_modules(pipe)):
            generate(
                pipe,
                self.rows,
                folder,
                num_inference_steps=self.config.num_inference_steps,
                guidance_scale=self.config.guidance_scale,
                batch_size=self.config.batch_size,
                label=f"images of {label}",
                progress=self.progress,
            )
        self.folders[label], self.marks[label] = folder, fingerprint(pipe)


def _base_key(model: Named) -> str | int:
    """What tells bases apart: the name of one on disk, and of a loaded pipeline that it is the same object."""
    base = model.subject.base
    return base if isinstance(base, str) else id(base)


def _base_labels(models: Sequence[Named]) -> dict[str | int, str]:
    """Key of each base -> what the report calls it."""
    keys = list(dict.fromkeys(map(_base_key, models)))
    return {key: "base" if len(keys) == 1 else f"base {place}" for place, key in enumerate(keys, start=1)}


def _check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that are no folder of one model."""
    if twice := [label for label in labels if labels.count(label) > 1 or label in ("reference", "base")]:
        raise ValueError(
            f"The models are called {', '.join(labels)}, but each needs a name of its own, and {twice[0]!r} is taken: "
            "rename a folder."
        )
