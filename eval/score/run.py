"""The scorers of a suite, loaded, and what they say about the images of all models of a report."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from eval.draw.drawn import Drawn
from eval.draw.manifest import Record
from eval.models.fingerprint import Fingerprint
from eval.score.lockstep import ImageGroup, ModelImages
from eval.score.photographs import score_photographs
from eval.score.reading import READERS
from eval.score.scorer import Batch, Scorer
from eval.score.scorers import pixels
from eval.score.scorers_of import PIXELS, check, fetch, provide, scorer_module
from eval.score.table import Scores, Table
from eval.suite.rows import Row
from eval.suite.suite import Suite


@dataclass
class Scorers:
    """The loaded scorers of a suite.

    Attributes:
        loaded: Name -> scorer; ``pixels`` always comes first.
        absent: Name -> why the scorer does not run.
    """

    loaded: dict[str, Scorer] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Add what always runs."""
        self.loaded = {PIXELS: pixels.load(pixels.Config())} | self.loaded

    @property
    def is_complete(self) -> bool:
        """Whether every scorer that the suite asks for runs."""
        return not self.absent

    @property
    def provided(self) -> dict[str, str]:
        """Column, or ``array:NAME``, that a scorer of the suite gives -> why it is not made; empty if it is."""
        return provide({name: scorer.not_run for name, scorer in self.loaded.items()} | self.absent)

    def open(self) -> None:
        """Load what is too large to be in memory while images are drawn."""
        for scorer in self.loaded.values():
            scorer.open()

    def networks(self) -> list[nn.Module]:
        """What the scorers spend their time in, for ``eval.models.clock``; no module is within another."""
        return [network for scorer in self.loaded.values() for network in scorer.networks()]

    def cards(self) -> dict[str, dict[str, Any]]:
        """Scorer -> what it says about itself, or ``{"not_run": why}``."""
        cards = {name: dict(scorer.card) for name, scorer in self.loaded.items() if name != PIXELS}
        return cards | {name: {"not_run": reason} for name, reason in self.absent.items()}

    def look_at_base(self, pipe: DiffusionPipeline, fingerprint: Fingerprint) -> None:
        """Take from a base, while it is loaded, what scorers need of it."""
        for scorer in self.loaded.values():
            scorer.look_at_base(pipe, fingerprint)

    def real_arrays(self, drawn: Drawn, row: Row, cache: Path) -> dict[str, np.ndarray]:
        """Scorer -> its array for the user's photographs, as far as the suite names a folder of them.

        Args:
            drawn: A model whose images give the size to which photographs are cropped.
            row: One of its rows.
            cache: Folder that keeps the scores of the photographs.
        """
        names = [name for name, scorer in self.loaded.items() if scorer.photographs]
        if not names:
            return {}
        with Image.open(drawn.folder / f"images/{row.key}.png") as image:
            size = image.size
        return {name: score_photographs(name, self.loaded[name], size, cache) for name in names}


def load_scorers(suite: Suite, *, device: str = "cpu") -> Scorers:
    """Load the scorers of a suite; a scorer without weights is left out. Weights on the hub are fetched.

    Args:
        suite: The suite.
        device: Where large networks run; a scorer whose network is small stays on the CPU.

    Raises:
        FileNotFoundError: A file or folder that the suite names does not exist.
        ValueError: A setting means nothing, or a file holds something else.
    """
    scorers = Scorers()
    for name, config in check(suite).items():
        module = scorer_module(name)
        fetch(name, config)
        if reason := module.missing(config):
            scorers.absent[name] = reason
        else:
            scorers.loaded[name] = module.load(config, suite=suite, device=device)
    return scorers


def score_all(drawn: Sequence[Drawn], rows: Mapping[int, Sequence[Row]], scorers: Scorers) -> dict[str, Scores]:
    """Score the images of all models; beside the images is kept what the scorers say, so that they are asked once.

    Args:
        drawn: The models. A model with a base is compared with it, row by row.
        rows: Group -> which images of its models to score, in the order of the records.
        scorers: Loaded and opened.

    Returns:
        Label -> scores, in the order of ``drawn``.

    Raises:
        FileNotFoundError: An image is missing; it names it.
        ValueError: An image is not the one that the manifest describes, or is not paired with the base's.
    """
    scores: dict[str, Scores] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for number in dict.fromkeys(each.group for each in drawn):
            group = ImageGroup([each for each in drawn if each.group == number], rows[number], scorers.loaded)
            group.score(pool)
            bases: dict[str, Mapping[str, Batch]] = {}
            for model in group.models:
                label, answers = model.drawn.label, group.answers(model)
                base = bases[model.base.drawn.label] if model.base else None
                scores[label] = _finish(model, rows[number], scorers, answers, base)
                if model.base is None:
                    bases[label] = answers
    return {each.label: scores[each.label] for each in drawn}


def _finish(
    model: ModelImages,
    rows: Sequence[Row],
    scorers: Scorers,
    answers: Mapping[str, Batch],
    base: Mapping[str, Batch] | None,
) -> Scores:
    """The records and arrays of one model."""
    records = [_record(row, record) for row, record in zip(rows, model.records, strict=True)]
    arrays: dict[str, np.ndarray] = {}
    broken = [""] * len(rows)
    for name, scorer in scorers.loaded.items():
        batch, module = scorer.finish(answers[name], base[name] if base else None, rows), scorer_module(name)
        if lacking := [array for array in module.ARRAYS if array not in batch.arrays]:
            raise ValueError(
                f"The scorer {name} lists the array {lacking[0]!r} but does not give it: correct its module."
            )
        arrays |= {array: batch.arrays[array] for array in module.ARRAYS}
        reasons = batch.columns.get("broken", broken)
        broken = [first or second for first, second in zip(broken, reasons, strict=True)]
        for column in module.COLUMNS:
            values = batch.columns.get(column, [None] * len(rows))
            for record, value in zip(records, values, strict=True):
                record[column] = value
    absent = [column for name in scorers.absent for column in scorer_module(name).COLUMNS]
    for record, reason in zip(records, broken, strict=True):
        record |= {"broken": reason, **dict.fromkeys(absent)}
    return Scores(Table(records), arrays)


def _record(row: Row, record: Record) -> dict[str, Any]:
    return {
        "key": row.key,
        "prompt_id": row.prompt_id,
        "prompt": row.prompt,
        "seed": row.seed,
        "role": row.role,
        "family": row.family,
        "style": row.style,
        "object": row.object,
        "language": row.language,
        "attack": row.attack,
        "columns": row.columns or None,  # Parquet has no empty record
        "latent_hash": record["latent_hash"],
        "image_path": record["image_path"],
        "image_sha256": record["image_sha256"],
        "flagged": record.get("flagged", False),  # by a safety checker or a block list, which blank it
        "wall_s": record["wall_s"],
        "unet_forwards": record.get("unet_forwards"),  # images of an earlier version were not counted
    }
