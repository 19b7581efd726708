"""LPIPS (arXiv 1801.03924) with the AlexNet backbone, per pair of images.

The linear heads come with torchmetrics; the backbone is torchvision's AlexNet, whose weights are the user's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.files import find_weights, hash_weights
from eval.score.scorer import Batch, Scorer, Side
from eval.score.weights import ABSENT, read_state, weights_card
from eval.suite.suite import Suite


if TYPE_CHECKING:
    import torch
    from torch import nn


COLUMNS = ("drift_lpips",)
ARRAYS: tuple[str, ...] = ()
WEIGHTS = ("backbone",)
# of pixels in [-1, 1], as in the authors' code
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# of torchvision's alexnet-owt-7be5be79.pth, for which the linear heads were trained
PUBLISHED = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
STAGES = (2, 5, 8, 10, 12)  # AlexNet's five ReLUs end before these layers


@dataclass(frozen=True, kw_only=True)
class Config:
    """``backbone``: torchvision's AlexNet weights, as a path or on the hub; with any other file the report says so."""

    backbone: str = ""


class Lpips(Scorer):
    """Compares images of one size pair by pair."""

    scores = False
    compares = True
    batch_size = 32

    def __init__(self, backbone: Path) -> None:
        """Load the weights; see ``load``."""
        import torch
        import torchmetrics.functional.image.lpips as heads
        import torchvision

        network = torchvision.models.alexnet(weights=None)
        network.load_state_dict(read_state(backbone, "AlexNet"))
        self.features = network.features.eval().requires_grad_(False)
        trained = Path(heads.__file__).parent / "lpips_models" / "alex.pth"
        state = torch.load(trained, map_location="cpu", weights_only=True)
        self.weights = [state[f"lin{stage}.model.1.weight"] for stage in range(len(STAGES))]  # (1, C, 1, 1) each
        self.card = weights_card(backbone, published=PUBLISHED)
        self.identity = {"weights_sha256": [hash_weights(path) for path in (backbone, trained)]}

    def networks(self) -> list["nn.Module"]:
        """The layers of the backbone, which are called in groups."""
        return list(self.features)

    def compare(self, own: Side, base: Side) -> Batch:
        """The distance of each pair: 0 for equal images, lower is closer."""
        return Batch({"drift_lpips": [round(float(value), 6) for value in self.distances(own.images, base.images)]})

    def distances(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
        """Distances of images (H, W, 3): (n,)."""
        import torch

        with torch.no_grad():
            sides = zip(self._unit_stages(first), self._unit_stages(second), self.weights, strict=True)
            gaps = [torch.nn.functional.conv2d((a - b) ** 2, weight).mean((1, 2, 3)) for a, b, weight in sides]
            return torch.stack(gaps).sum(0).numpy()

    def _unit_stages(self, images: Sequence[np.ndarray]) -> list["torch.Tensor"]:
        import torch

        from eval.score.classifier import to_tensor

        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        seen, stages = (to_tensor(images) - shift) / scale, []
        for start, end in zip((0, *STAGES), STAGES, strict=False):
            seen = self.features[start:end](seen)
            stages.append(seen / (seen.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return stages


def missing(config: Config) -> str:
    """Its weights are the user's."""
    return "" if find_weights(config.backbone, local_only=True) else ABSENT


def load(config: Config, *, suite: Suite, device: str) -> Lpips:
    """Load the backbone; it runs on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file that holds something else.
    """
    return Lpips(find_weights(config.backbone) or Path(config.backbone))
