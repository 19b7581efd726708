"""The form of a scorer: what it is shown, what it answers, and what it may do beside that.

A scorer is a module of ``eval.score.scorers``, found by the name of its file. The module has

- ``Config``: a frozen dataclass whose fields are the scorer's settings in a suite's YAML file;
- ``COLUMNS`` and ``ARRAYS``: names of what it gives, in the records of ``scores.jsonl`` and as arrays beside them;
- ``missing(config)``: why it cannot run, in words, found out without loading or fetching anything; empty if it can;
- ``load(config, *, suite, device)``: a ``Scorer``;
- ``WEIGHTS``, if it has files on the hub: the fields of ``Config`` that name them, to be fetched before it is loaded.

A module imports torch and other large libraries where it uses them: a plan asks ``missing`` and loads nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from eval.suite.rows import Row


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

    from eval.draw.drawn import Drawn
    from eval.models.fingerprint import Fingerprint


@dataclass(frozen=True)
class Batch:
    """What a scorer says about some images: one value per image in every column and in every array."""

    columns: dict[str, Sequence[Any]] = field(default_factory=dict)  # what JSON holds
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (n, ...)


class Picture:
    """One decoded image, in RGB."""

    def __init__(self, image: Image.Image) -> None:
        """Keep the image."""
        self.image = image

    @cached_property
    def pixels(self) -> np.ndarray:
        """The same as (H, W, 3) uint8; all scorers share it."""
        return np.asarray(self.image)


@dataclass(frozen=True)
class Side:
    """One of two models whose images are compared pair by pair.

    Attributes:
        images: As ``Scorer.prepare`` gave them.
        notes: What a scorer remembers of these images. The base's side is the same object for all models.
    """

    images: Sequence[Any]
    notes: dict[str, Any] = field(default_factory=dict)


class Scorer:
    """Scores images; a subclass overrides what it needs.

    Attributes:
        identity: What decides a score beside the image and the question, such as a hash of the weights; scores are
            kept under it. None if nothing tells this scorer from another one: then no score is kept on disk.
        card: What a report says about the scorer, such as its weights.
        batch_size: Images per call of ``score`` and of ``compare``.
        scores: Whether ``score`` answers anything.
        compares: Whether ``compare`` answers anything.
        photographs: Folder of the user's own images to which those of the models are compared as a set.
        not_run: Why a loaded scorer has no answer after all; empty if it has.
    """

    identity: dict[str, Any] | None = None
    card: Mapping[str, Any] = MappingProxyType({})
    batch_size: int = 64
    scores: bool = True
    compares: bool = False
    photographs: Path | None = None
    not_run: str = ""

    def networks(self) -> list["nn.Module"]:
        """The modules in which the scorer spends its time, for ``eval.models.clock``; none is within another."""
        return []

    def open(self) -> None:
        """Load what is too large to be in memory while images are drawn."""

    def look_at_base(self, pipe: "DiffusionPipeline", fingerprint: "Fingerprint") -> None:
        """Take what is needed of a base model while it is loaded; called once per base."""

    def begin(self, rows: Sequence[Row], base: "Drawn") -> Batch:
        """Answer what depends on the rows alone; called once for all models that share rows, before their images.

        Args:
            rows: What was drawn.
            base: The model with which the others are compared, or the only one.
        """
        return Batch()

    def question(self, row: Row) -> str | None:
        """What a score depends on beside the image; None if the image of the row needs no score."""
        return ""

    def prepare(self, picture: Picture) -> Any:  # noqa: ANN401 - whatever the scorer works on
        """What ``score`` and ``compare`` get of an image; it runs in the threads that read images."""
        return picture.pixels

    def score(self, images: Sequence[Any], rows: Sequence[Row]) -> Batch:
        """Score images, each as ``prepare`` gave it; the answers are kept, so that no image is scored twice.

        Args:
            images: One or more.
            rows: Their rows; none for photographs.

        Raises:
            ValueError: The scorer has no ``score`` of its own.
        """
        raise ValueError(
            f"{type(self).__name__} does not say how it scores images: write score, or set scores = False."
        )

    def compare(self, own: Side, base: Side) -> Batch:
        """Compare a model's images with the base's, pair by pair; the answers are kept.

        Raises:
            ValueError: The scorer has no ``compare`` of its own.
        """
        raise ValueError(f"{type(self).__name__} does not say how it compares: write compare, or set compares = False.")

    def finish(self, own: Batch, base: Batch | None, rows: Sequence[Row]) -> Batch:
        """Derive the columns and arrays of a model from all answers about it; this is cheap, and not kept.

        Args:
            own: All answers of ``begin``, ``score`` and ``compare``, row by row.
            base: The same of the base; None for a base.
            rows: What was drawn.

        Returns:
            What goes into the scores, as far as the module lists it in ``COLUMNS`` and ``ARRAYS``. Every scorer may
            give the column ``broken``, why an image is broken; the first reason counts.
        """
        return own
