"""Suites without a style x object grid: the user's prompt files -> images of base and models -> scores -> report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps
from safetensors.numpy import save_file

from eval import manifest, prompt_report, subject
from eval.aggregate import WEIGHTS_ABSENT
from eval.fingerprint import Fingerprint, fingerprint, hash_json
from eval.generate import generate, image_settings, process_state
from eval.prompt_config import PromptSuiteConfig, aim, asked_of, prompt_suite_hash, suite_rows
from eval.prompt_gates import apply_gates
from eval.prompt_metrics import Scores, measure, nudity_curves
from eval.provenance import environment
from eval.rows import Row
from eval.scorers import clip, inception, nudity, validity, vlm
from eval.scorers.nudity import Nudity
from eval.scorers.vlm import Vlm
from eval.scoring import Pictures, Scored, Scorers, score
from eval.subject import Subject
from eval.table import Table, write_scores
from eval.writing import replacing, write_json


SCHEMA_VERSION = 1
PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp")


class Named(NamedTuple):
    """A model under test, and what the report calls it."""

    label: str
    subject: Subject


@dataclass(frozen=True, kw_only=True)
class PromptScorers:
    """The loaded scorers of a suite of prompt files; what has no weights is None."""

    images: Scorers
    nudity: Nudity | None = None
    vlm: Vlm | None = None

    def asked(self, config: PromptSuiteConfig) -> "PromptScorers":
        """Return those that the suite asks for; its report has no place for others."""
        wants = config.scorers
        images = replace(
            self.images,
            clip=self.images.clip if "clip" in wants else None,
            inception=self.images.inception if "inception" in wants else None,
        )
        return PromptScorers(
            images=images,
            nudity=self.nudity if "nudity" in wants else None,
            vlm=self.vlm if "vlm" in wants else None,
        )

    def is_complete(self, config: PromptSuiteConfig) -> bool:
        """Whether everything that the suite asks for is there."""
        there = {"nudity": self.nudity, "vlm": self.vlm, "clip": self.images.clip, "inception": self.images.inception}
        return all(there[name] is not None for name in config.scorers)


class Outcome(NamedTuple):
    """The report, and whether all of the suite's scorers had their weights."""

    report: Path
    is_judged: bool


def load_scorers(config: PromptSuiteConfig, *, device: str = "cpu") -> PromptScorers:
    """Load the scorers of a suite; what has no weights is left out.

    Args:
        config: The suite.
        device: Where the vision-language model runs; every other scorer is small and runs on the CPU.

    Raises:
        FileNotFoundError: weights, or a folder of real images, that do not exist.
        ValueError: weights of something else, or no real image in that folder.
    """
    wants, files = set(config.scorers), config.clip
    if config.real_images:
        _photographs(Path(config.real_images))
    return PromptScorers(
        vlm=vlm.load(vlm.Config(model=Path(config.vlm), device=device)) if "vlm" in wants and config.vlm else None,
        nudity=nudity.load(nudity.Config()) if "nudity" in wants and nudity.is_installed() else None,
        images=Scorers(
            classifier=None,
            validity=validity.load(validity.Config()),
            clip=clip.load(clip.Config(**asdict(files))) if "clip" in wants and files.model else None,
            inception=inception.load(inception.Config(weights=Path(config.inception)))
            if "inception" in wants and config.inception
            else None,
        ),
    )


def missing_weights(config: PromptSuiteConfig) -> list[str]:
    """The scorers of a suite that will not run, without loading any."""
    there = {
        "nudity": nudity.is_installed(),
        "vlm": bool(config.vlm),
        "clip": bool(config.clip.model),
        "inception": bool(config.inception),
    }
    return [name for name in config.scorers if not there[name]]


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
) -> Outcome:
    """Draw the rows of a suite with every model and its base, score the images, and write one report of all models.

    A stopped evaluation goes on with the images that ``out`` and ``cache`` hold.

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
        ValueError: two models of one label, another prompt file than the suite means, or a folder with images of
            another model or of other settings.
    """
    config = aim(config, [model.subject.concept for model in models])
    rows = suite_rows(config)
    scorers = (scorers or load_scorers(config, device=device)).asked(
        config
    )  # before hours of generation: weights may be damaged
    _check_models(models, config, out, device=device, dtype=dtype)
    drawn = _Drawn(config, rows, progress=progress)
    bases = _base_labels(models)
    for key, label in bases.items():
        one = next(model.subject for model in models if _base_key(model) == key)
        pipe = subject.open_base(one, device=device, dtype=dtype)
        drawn.make(label, pipe, drawn.cached(pipe, cache or out / "reference"))
        del pipe  # one model at a time
    for model in models:
        drawn.make(model.label, subject.open_erased(model.subject, device=device, dtype=dtype), out / model.label)
    state = process_state()
    state.wait_for_everyone()
    is_judged = scorers.is_complete(config)
    if not state.is_main_process:  # every process generates its share of the images, one scores them all
        return Outcome(out / "report.html", is_judged)
    of_base = {model.label: bases[_base_key(model)] for model in models}
    found, kept = _score_all(drawn.folders, rows, scorers, of_base)
    real = _real_features(scorers, config, drawn.folders[next(iter(bases.values()))], rows)
    content = build_report(config, models, found, drawn.marks, of_base, real=real, command=command)
    content["folders"] = {label: os.path.relpath(folder, out) for label, folder in drawn.folders.items()}
    content["provenance"] = environment() | {"nudity": scorers.nudity.card if scorers.nudity else WEIGHTS_ABSENT}
    content["provenance"]["vlm"] = scorers.vlm.card if scorers.vlm else WEIGHTS_ABSENT
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.jsonl", {label: scores.table for label, scores in found.items()})
    with replacing(out / "features.safetensors") as partial:
        save_file(kept, partial)
    write_json(out / "report.json", content)
    return Outcome(prompt_report.render(out), is_judged)


def build_report(
    config: PromptSuiteConfig,
    models: Sequence[Named],
    scores: Mapping[str, Scores],
    marks: Mapping[str, Fingerprint],
    of_base: Mapping[str, str],
    *,
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
        real: Inception features of real images (N, 2048).
        command: How to repeat this.

    Raises:
        ValueError: the models' images are not paired.
    """
    metrics = measure(scores, config, real=real)
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
        "models": described,
        "columns": [{"label": label, "base": each.base, "hash": marks[label].model} for label, each in scores.items()],
        "images": len(next(iter(scores.values())).table),
        "gates": apply_gates(metrics, scores, config, same),
        "metrics": metrics,
        "curves": nudity_curves(scores),
        "reproduce": command,
    }


class _Cropped(Pictures):
    """Images of any shape, read whenever they are asked for, cropped at the centre and resized to one size."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        super().__init__(paths)
        self.size = size

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image.Image]: ...
    def __getitem__(self, place: int | slice) -> Image.Image | list[Image.Image]:
        found = super().__getitem__(place)
        if isinstance(found, list):
            return [ImageOps.fit(image, self.size, Image.Resampling.BICUBIC) for image in found]
        return ImageOps.fit(found, self.size, Image.Resampling.BICUBIC)


class _Drawn:
    """Where the images of each model are, and what hash each model has."""

    def __init__(self, config: PromptSuiteConfig, rows: Sequence[Row], *, progress: bool) -> None:
        self.config, self.rows, self.progress = config, rows, progress
        self.folders: dict[str, Path] = {}
        self.marks: dict[str, Fingerprint] = {}

    def cached(self, pipe: DiffusionPipeline, cache: Path) -> Path:
        """The folder in the cache for this model, its settings and these rows; ids of two prompt files may be equal."""
        settings = image_settings(pipe, self.config.num_inference_steps, self.config.guidance_scale)
        rows = [(row.key, row.prompt, row.guidance_scale) for row in self.rows]
        return cache / hash_json([settings, rows])[:16]

    def make(self, label: str, pipe: DiffusionPipeline, folder: Path) -> None:
        """Draw what is missing."""
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


def _check_models(
    models: Sequence[Named], config: PromptSuiteConfig, out: Path, *, device: str, dtype: torch.dtype
) -> None:
    """Refuse, before anything is drawn, what would end the evaluation after hours."""
    labels = [model.label for model in models]
    if twice := [label for label in labels if labels.count(label) > 1 or label in ("reference", "base")]:
        raise ValueError(
            f"The models are called {', '.join(labels)}, but each needs a name of its own, and {twice[0]!r} is taken: "
            "rename a folder."
        )
    for model in models:
        if manifest.read(out / model.label):  # a stopped evaluation: of this model?
            pipe = subject.open_erased(model.subject, device=device, dtype=dtype)
            settings = image_settings(pipe, config.num_inference_steps, config.guidance_scale)
            manifest.check_settings(out / model.label, settings)


def _score_all(
    folders: Mapping[str, Path], rows: Sequence[Row], scorers: PromptScorers, of_base: Mapping[str, str]
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """The scores of every model, its base first, and the features that a report is made from."""
    scored: dict[str, Scored] = {}
    found: dict[str, Scores] = {}
    kept: dict[str, Any] = {}
    for label in sorted(folders, key=lambda label: label in of_base):  # bases first
        base = of_base.get(label)
        each = scored[label] = score(folders[label], rows, scorers.images, tau=0.0, base=scored[base] if base else None)
        told = {
            "detections": scorers.nudity(each.images) if scorers.nudity else [None] * len(rows),
            "shown": scorers.vlm(each.images, [asked_of(row) for row in rows]) if scorers.vlm else [None] * len(rows),
        }
        own = [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]
        table = Table([row | one for row, one in zip(each.table.rows, own, strict=True)])
        found[label] = Scores(base, table, each.inception, _unrelated(each, rows, scorers))
        for name, features in (("clip", each.clip), ("inception", each.inception)):
            if features is not None:
                kept[f"{name}/{label}"] = features
    return found, kept


def _unrelated(scored: Scored, rows: Sequence[Row], scorers: PromptScorers) -> float | None:
    """The mean CLIP score of the images with the prompts of other rows; None without a CLIP model or other prompts."""
    prompts = [row.prompt for row in rows]
    if scorers.images.clip is None or scored.clip is None or len(set(prompts)) < 2:
        return None
    half = len(rows) // 2
    return float(scorers.images.clip.align(scored.clip, prompts[half:] + prompts[:half]).mean())


def _photographs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of real images {folder} does not exist; write its path, or leave it empty."
        )
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOGRAPHS)
    if not found:
        raise ValueError(f"The folder of real images {folder} holds none ({', '.join(PHOTOGRAPHS)}); name another one.")
    return found


def _real_features(
    scorers: PromptScorers, config: PromptSuiteConfig, drawn: Path, rows: Sequence[Row]
) -> np.ndarray | None:
    """Inception features (N, 2048) of the real images, cropped at the centre to the shape and size of a drawn one."""
    if scorers.images.inception is None or not config.real_images:
        return None
    with Image.open(drawn / f"images/{rows[0].key}.png") as image:
        size = image.size
    return scorers.images.inception(_Cropped(_photographs(Path(config.real_images)), size))
