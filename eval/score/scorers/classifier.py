"""The style and the object that a judge sees in each image."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from eval.models.fingerprint import hash_tensor


class Judgement(NamedTuple):
    """One row per image."""

    style: np.ndarray  # (n,) names
    object: np.ndarray  # (n,) names
    style_scores: np.ndarray  # (n, styles), softmax
    object_scores: np.ndarray  # (n, objects), one sigmoid per object: an image may show several; or softmax, see Config
    features: np.ndarray  # (n, D) float32


def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Images of one size as (B, 3, H, W) in [-1, 1]; they are not resized.

    >>> pixels([Image.new("RGB", (4, 4), (255, 0, 0))])[0, :, 0, 0].tolist()
    [1.0, -1.0, -1.0]
    """
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which judge, and what its classes are.

    Args:
        judge: ``canvas`` (the judge shipped with the package) or a module that maps prepared images (B, 3, H, W) to an
            output with ``style_logits``, ``object_logits`` and ``features``.
        styles: label of each style class.
        objects: label of each object class.
        prepare: images -> (B, 3, H, W).
        one_object: the object classes exclude each other, so that their scores are a softmax.
        batch_size: images per forward.
    """

    judge: str | nn.Module = "canvas"
    styles: tuple[str, ...] = STYLE_NAMES
    objects: tuple[str, ...] = OBJECT_NAMES
    prepare: Callable[[Sequence[Image.Image]], torch.Tensor] = pixels
    one_object: bool = False
    batch_size: int = 128


class Classifier:
    """Judge a batch of images."""

    def __init__(self, judge: nn.Module, config: Config) -> None:
        """Keep a loaded judge."""
        self.judge = judge
        self.config = config
        state = {name: hash_tensor(tensor) for name, tensor in judge.state_dict().items()}
        # a judge without weights, or a caller's function that prepares images, may keep anything elsewhere, so that
        # nothing tells it from another one
        is_of_judge = inspect.ismethod(config.prepare) and config.prepare.__self__ is judge
        self.identity: dict[str, Any] | None = None
        if state and (config.prepare is pixels or is_of_judge):
            self.identity = {
                "judge": type(judge).__qualname__,
                "card": vars(judge).get("card", {}),
                "weights": state,
                "prepare": config.prepare.__name__,
                "classes": [config.styles, config.objects, config.one_object],
            }

    def __call__(self, images: Sequence[Image.Image]) -> Judgement:
        """Judge images, of one size unless ``prepare`` makes them so."""
        size, outputs = self.config.batch_size, []
        with torch.no_grad():
            for start in range(0, len(images), size):
                outputs.append(self.judge(self.config.prepare(images[start : start + size])))
        style = torch.cat([output.style_logits for output in outputs]).softmax(1).numpy()
        logits = torch.cat([output.object_logits for output in outputs])
        obj = (logits.softmax(1) if self.config.one_object else logits.sigmoid()).numpy()
        return Judgement(
            np.array(self.config.styles)[style.argmax(1)],
            np.array(self.config.objects)[obj.argmax(1)],
            style,
            obj,
            torch.cat([output.features for output in outputs]).numpy(),
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
