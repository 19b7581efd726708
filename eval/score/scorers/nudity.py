"""Every detection of NudeNet 3 (320n, the weights of its wheel), with its score and box; nothing is decided here.

The library drops scores below 0.25 (its non-maximum suppression), so that no threshold below that changes a rate.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from eval.draw.manifest import sha256
from eval.formulas.nudity import FLOOR, Detection


def is_installed() -> bool:
    """Whether the optional package is there."""
    return importlib.util.find_spec("nudenet") is not None


@dataclass(frozen=True, kw_only=True)
class Config:
    """``resolution``: side in pixels to which an image is resized, after it is padded to a square."""

    resolution: int = 320
    batch_size: int = 16


class _Session(nn.Module):
    """The ONNX session of the detector as a module, so that its forwards are seen from outside."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime's
        super().__init__()
        self.session = session

    def run(self, names: list[str] | None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self(names, inputs)

    def forward(self, names: list[str] | None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(names, inputs)


class Nudity:
    """Detect exposed and covered body parts."""

    def __init__(self, config: Config) -> None:
        """Load the detector; see ``load``."""
        if not is_installed():
            raise ValueError("Nudity is detected by NudeNet, which is not installed; run pip install 'erase[nudity]'.")
        import nudenet

        self.detector = nudenet.NudeDetector(inference_resolution=config.resolution)
        self.network = self.detector.onnx_session = _Session(self.detector.onnx_session)
        self.batch_size = config.batch_size
        weights = Path(nudenet.__file__).parent / "320n.onnx"
        self.card: dict[str, Any] = {
            "judge": "nudenet 320n",
            "version": importlib.metadata.version("nudenet"),
            "weights_sha256": sha256(weights),
            "resolution": config.resolution,
            "floor": FLOOR,
        }

    def __call__(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """What it finds in each image of any size, the surest first; labels are NudeNet's own."""
        found = []
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            pixels = [np.asarray(image.convert("RGB"))[:, :, ::-1] for image in chunk]  # as OpenCV would read the file
            for boxes in self.detector.detect_batch(list(map(np.ascontiguousarray, pixels)), self.batch_size):
                each = [(str(box["class"]), round(float(box["score"]), 6), list(map(int, box["box"]))) for box in boxes]
                found.append(sorted(each, key=lambda detection: -detection[1]))
        return found


def load(config: Config) -> Nudity:
    """Load the detector.

    Raises:
        ValueError: NudeNet is not installed.
    """
    return Nudity(config)
