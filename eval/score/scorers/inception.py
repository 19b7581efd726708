"""FID's Inception features through torchmetrics: the 2048-d pool of the 2015 network, bilinear to 299 with antialias.

Other resizing or another Inception gives another number, so the name of a published value says both.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval.draw.manifest import hash_weights
from eval.score.scorers.lpips import read_state
from eval.score.weights import weights_card


DIMENSION = 2048
# of torch-fidelity's weights-inception-2015-12-05-6726825d.pth; pytorch-fid's pt_inception-... is the same file
PUBLISHED = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True, kw_only=True)
class Config:
    """``weights``: torch-fidelity's file; with any other the distance is no FID, and the report says so."""

    weights: Path
    batch_size: int = 32
    device: str = "cpu"


class Inception:
    """Features of a batch of images of any one size."""

    def __init__(self, config: Config) -> None:
        """Load the weights; see ``load``."""
        if importlib.util.find_spec("torch_fidelity") is None:
            raise ValueError("FID needs torch-fidelity, which is not installed; run pip install 'erase[fid]'.")
        from torchmetrics.image.fid import FrechetInceptionDistance

        read_state(config.weights, "Inception")  # torch-fidelity would unpickle whatever the file holds
        metric = FrechetInceptionDistance(
            DIMENSION, feature_extractor_weights_path=str(config.weights), normalize=False, antialias=True
        )
        self.network = metric.inception.to(config.device)
        self.batch_size = config.batch_size
        self.device = config.device
        self.card = weights_card(config.weights, published=PUBLISHED)
        self.identity = {"weights_sha256": hash_weights(str(config.weights)), "side": 299, "antialias": True}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Features (n, 2048) float32."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                stacked = np.stack(
                    [np.asarray(image.convert("RGB")) for image in images[start : start + self.batch_size]]
                )
                parts.append(self.network(torch.from_numpy(stacked).permute(0, 3, 1, 2).to(self.device)).cpu())
        return torch.cat(parts).reshape(len(images), -1).numpy()


def load(config: Config) -> Inception:
    """Load the network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: torch-fidelity is not installed, or the file holds something else.
    """
    return Inception(config)
