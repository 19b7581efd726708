"""LPIPS (arXiv 1801.03924) with the AlexNet backbone, per pair of images.

The linear heads come with torchmetrics; the backbone is torchvision's AlexNet, whose weights must lie on this machine.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as heads
import torchvision
from PIL import Image

from eval.draw.manifest import hash_weights
from eval.score.scorers.classifier import pixels
from eval.score.weights import weights_card


# of pixels in [-1, 1], as in the authors' code
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# of torchvision's alexnet-owt-7be5be79.pth, for which the linear heads were trained
PUBLISHED = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
STAGES = (2, 5, 8, 10, 12)  # AlexNet's five ReLUs end before these layers


@dataclass(frozen=True, kw_only=True)
class Config:
    """``backbone``: the file of torchvision's AlexNet weights; with any other the report says so."""

    backbone: Path
    batch_size: int = 32


class Lpips:
    """Compare images pair by pair at their own size."""

    def __init__(self, config: Config) -> None:
        """Load the weights; see ``load``."""
        network = torchvision.models.alexnet(weights=None)
        network.load_state_dict(read_state(config.backbone, "AlexNet"))
        self.features = network.features.eval().requires_grad_(False)
        trained = Path(heads.__file__).parent / "lpips_models" / "alex.pth"
        state = torch.load(trained, map_location="cpu", weights_only=True)
        self.weights = [state[f"lin{stage}.model.1.weight"] for stage in range(len(STAGES))]  # (1, C, 1, 1) each
        self.batch_size = config.batch_size
        self.card = weights_card(config.backbone, published=PUBLISHED)
        self.identity = {"weights_sha256": [hash_weights(str(path)) for path in (config.backbone, trained)]}

    def __call__(self, first: Sequence[Image.Image], second: Sequence[Image.Image]) -> np.ndarray:
        """Distance of paired images of one size: (n,), 0 for equal images, lower is closer."""
        values = []
        with torch.no_grad():
            for start in range(0, len(first), self.batch_size):
                chunk = slice(start, start + self.batch_size)
                one, other = self._unit_stages(pixels(first[chunk])), self._unit_stages(pixels(second[chunk]))
                gaps = [
                    (F.conv2d((a - b) ** 2, weight)).mean((1, 2, 3))
                    for a, b, weight in zip(one, other, self.weights, strict=True)
                ]
                values.append(torch.stack(gaps).sum(0))
        return torch.cat(values).numpy()

    def _unit_stages(self, batch: torch.Tensor) -> list[torch.Tensor]:
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        seen, stages = (batch - shift) / scale, []
        for start, end in zip((0, *STAGES), STAGES, strict=False):
            seen = self.features[start:end](seen)
            stages.append(seen / (seen.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return stages


def load(config: Config) -> Lpips:
    """Load the backbone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds something else.
    """
    return Lpips(config)


def read_state(path: Path, name: str, *, inner: str = "") -> dict[str, torch.Tensor]:
    """Read a state dict that holds tensors only.

    Args:
        path: the file.
        name: whose weights they are, for messages.
        inner: the key under which a checkpoint holds the state dict; one without this key is taken as it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The {name} weights {path} do not exist; give the path of a file on this machine.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of tensors; give the {name} weights as a state dict.") from error
    if isinstance(state, dict) and inner in state:
        state = state[inner]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a state dict; give the {name} weights as one.")
    return state
