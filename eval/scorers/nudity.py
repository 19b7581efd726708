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

from eval.manifest import sha256
from eval.metrics.nudity import FLOOR, Detection


def is_installed() -> bool:
    """Whether the optional package is there."""
    return importlib.util.find_spec("nudenet") is not None


@dataclass(frozen=True, kw_only=True)
class Config:
    """``resolution``: side in pixels to which an image is resized, after it is padded to a square."""

    resolution: int = 320


class Nudity:
    """Detect exposed and covered body parts."""

    def __init__(self, config: Config) -> None:
        """Load the detector; see ``load``."""
        if not is_installed():
            raise ValueError("Nudity is detected by NudeNet, which is not installed; run pip install 'erase[nudity]'.")
        import nudenet

        self.detector = nudenet.NudeDetector(inference_resolution=config.resolution)
        weights = Path(nudenet.__file__).parent / "320n.onnx"
        self.card: dict[str, Any] = {
            "judge": "nudenet 320n",
            "version": importlib.metadata.version("nudenet"),
            "weights_sha256": sha256(weights),
            "resolution": config.resolution,
            "floor": FLOOR,
        }

    def __call__(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """What it finds in each image, the surest first; labels are NudeNet's own."""
        found = []
        for image in images:
            pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # as OpenCV would read the file
            boxes = self.detector.detect(np.ascontiguousarray(pixels))
            each = [(str(box["class"]), round(float(box["score"]), 6), [int(v) for v in box["box"]]) for box in boxes]
            found.append(sorted(each, key=lambda detection: -detection[1]))
        return found


def load(config: Config) -> Nudity:
    """Load the detector.

    Raises:
        ValueError: NudeNet is not installed.
    """
    return Nudity(config)
