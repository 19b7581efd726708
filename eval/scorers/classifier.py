"""The style and the object that a judge sees in each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES


class Judgement(NamedTuple):
    """One row per image."""

    style: np.ndarray  # (n,) names
    object: np.ndarray  # (n,) names
    style_scores: np.ndarray  # (n, styles), softmax
    object_scores: np.ndarray  # (n, objects), one sigmoid per object: an image may show several


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which judge.

    ``judge`` is ``canvas`` (the judge shipped with the package) or a module that maps pixels (B, 3, H, W) in [-1, 1] to
    an output with ``style_logits``, ``object_logits`` and ``features``.
    """

    judge: str | nn.Module = "canvas"
    styles: tuple[str, ...] = STYLE_NAMES
    objects: tuple[str, ...] = OBJECT_NAMES
    batch_size: int = 128


class Classifier:
    """Judge a batch of images."""

    def __init__(self, judge: nn.Module, config: Config) -> None:
        """Keep a loaded judge."""
        self.judge = judge
        self.config = config

    def __call__(self, images: Sequence[Image.Image]) -> Judgement:
        """Judge images of one size."""
        outputs = list(judge_outputs(self.judge, images, self.config.batch_size))
        style = torch.cat([output.style_logits for output in outputs]).softmax(1).numpy()
        obj = torch.cat([output.object_logits for output in outputs]).sigmoid().numpy()
        return Judgement(
            np.array(self.config.styles)[style.argmax(1)], np.array(self.config.objects)[obj.argmax(1)], style, obj
        )


def load(config: Config) -> Classifier:
    """Load the judge.

    Raises:
        ValueError: an unknown judge.
    """
    return Classifier(load_judge(config.judge), config)


def load_judge(judge: str | nn.Module) -> nn.Module:
    """The canvas judge, or the given module, as long as it is in evaluation mode.

    Raises:
        ValueError: an unknown name, or a module in training mode.
    """
    if judge == "canvas":
        from erase.canvas.judge import load_judge as load_canvas_judge

        return load_canvas_judge()
    if isinstance(judge, str):
        raise ValueError(f"There is no judge {judge!r}; write 'canvas'.")
    if judge.training:
        raise ValueError("The judge is in training mode; call its eval() first.")
    return judge


def judge_outputs(judge: nn.Module, images: Sequence[Image.Image], batch_size: int) -> list[Any]:
    """Run a judge over images of one size, batch by batch."""
    with torch.no_grad():
        return [judge(pixels(images[start : start + batch_size])) for start in range(0, len(images), batch_size)]


def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Images as (B, 3, H, W) in [-1, 1]; they are not resized.

    >>> pixels([Image.new("RGB", (4, 4), (255, 0, 0))])[0, :, 0, 0].tolist()
    [1.0, -1.0, -1.0]
    """
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
