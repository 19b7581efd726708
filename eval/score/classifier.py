"""The style and the object that a network sees in each image; what the scorers ``judge`` and ``timm_pair`` share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from eval.limits import TAU
from eval.models.fingerprint import hash_tensor
from eval.score.scorer import Batch, Scorer
from eval.suite.rows import Row


class Classifier(Scorer):
    """Names the style and the object of each image.

    The network maps images (B, 3, H, W) in [-1, 1] to an output with ``style_logits``, ``object_logits`` and
    ``features``, all on the CPU. The scores of styles are a softmax. Those of objects are one sigmoid per object, since
    an image may show several, or a softmax if ``is_one_object``.
    """

    is_one_object = False

    def __init__(
        self,
        network: nn.Module,
        styles: Sequence[str],
        objects: Sequence[str],
        *,
        tau: float = TAU,
        batch_size: int = 64,
    ) -> None:
        """Keep a loaded network.

        Args:
            network: The network, in evaluation mode.
            styles: Label of each style class.
            objects: Label of each object class.
            tau: An image with all scores of both axes below it shows nothing that the judge recognises.
            batch_size: Images per forward.

        Raises:
            ValueError: The network is in training mode.
        """
        if network.training:
            raise ValueError("The judge is in training mode; call its eval() first.")
        self.network, self.styles, self.objects = network, tuple(styles), tuple(objects)
        self.tau, self.batch_size = tau, batch_size
        self.card = dict(vars(network).get("card", {}))
        self.identity = self._identify()

    def networks(self) -> list[nn.Module]:
        """The network."""
        return [self.network]

    def score(self, images: Sequence[Any], rows: Sequence[Row]) -> Batch:
        """Raw scores and features of images (H, W, 3) of one size."""
        with torch.no_grad():
            output = self.network(self._stack(images))
        logits = output.object_logits
        objects = logits.softmax(1) if self.is_one_object else logits.sigmoid()
        return Batch(
            arrays={
                "style_scores": output.style_logits.softmax(1).numpy(),
                "object_scores": objects.numpy(),
                "judge": output.features.numpy(),
            }
        )

    def finish(self, own: Batch, base: Batch | None, rows: Sequence[Row]) -> Batch:
        """Name the best class of each axis, and mark images in which nothing is recognised."""
        style, objects = own.arrays["style_scores"], own.arrays["object_scores"]
        best = np.maximum(style.max(1), objects.max(1))
        columns: dict[str, Sequence[Any]] = {
            "judge_style": [self.styles[place] for place in style.argmax(1)],
            "judge_object": [self.objects[place] for place in objects.argmax(1)],
            "style_scores": [[round(float(value), 5) for value in values] for values in style],
            "object_scores": [[round(float(value), 5) for value in values] for values in objects],
            "broken": ["nothing recognised" if value < self.tau else "" for value in best],
        }
        return Batch(columns, {"judge": own.arrays["judge"]})

    def _stack(self, images: Sequence[Any]) -> torch.Tensor:
        return to_tensor(images)

    def _identify(self) -> dict[str, object] | None:
        """Hash the weights; a network without any may keep them elsewhere, where nothing tells it from another one."""
        state = {name: hash_tensor(tensor) for name, tensor in self.network.state_dict().items()}
        classes = [self.styles, self.objects, self.is_one_object]
        name = type(self.network).__qualname__
        return {"judge": name, "card": dict(self.card), "weights": state, "classes": classes} if state else None


def to_tensor(images: Sequence[np.ndarray | Image.Image]) -> torch.Tensor:
    """Images of one size, as pixels (H, W, 3) or of PIL, as (B, 3, H, W) in [-1, 1]; they are not resized.

    >>> to_tensor([Image.new("RGB", (4, 4), (255, 0, 0))])[0, :, 0, 0].tolist()
    [1.0, -1.0, -1.0]
    """
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
