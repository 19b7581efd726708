"""Feature vectors of a judge, for distances between sets of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from eval.scorers.classifier import judge_outputs, load_judge


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which judge; see ``eval.scorers.classifier.Config``."""

    judge: str | nn.Module = "canvas"
    batch_size: int = 128


class Features:
    """The judge's features of a batch of images."""

    def __init__(self, judge: nn.Module, batch_size: int) -> None:
        """Keep a loaded judge."""
        self.judge = judge
        self.batch_size = batch_size

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Features of images of one size: (n, D) float32."""
        return torch.cat([output.features for output in judge_outputs(self.judge, images, self.batch_size)]).numpy()


def load(config: Config) -> Features:
    """Load the judge.

    Raises:
        ValueError: an unknown judge.
    """
    return Features(load_judge(config.judge), config.batch_size)
