"""FID's Inception features through torchmetrics: the 2048-d pool of the 2015 network, bilinear to 299 with antialias.

Other resizing or another Inception gives another number, so the name of a published value says both.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.files import find_weights, hash_weights
from eval.score.photographs import list_photographs
from eval.score.scorer import Batch, Scorer
from eval.score.weights import ABSENT, read_state, weights_card
from eval.suite.rows import Row
from eval.suite.suite import Suite


if TYPE_CHECKING:
    from torch import nn


COLUMNS: tuple[str, ...] = ()
ARRAYS = ("inception",)  # (n, 2048) float32
WEIGHTS = ("weights",)
DIMENSION = 2048
# of torch-fidelity's weights-inception-2015-12-05-6726825d.pth; pytorch-fid's pt_inception-... is the same file
PUBLISHED = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights, and which photographs to compare with.

    Attributes:
        weights: torch-fidelity's file, as a path or on the hub; with any other the distance is no FID, and the report
            says so. Empty: not run.
        real_images: Folder of photographs to which images are compared as well; empty for none.
    """

    weights: str = ""
    real_images: str = ""


class Inception(Scorer):
    """Features of a batch of images of any one size."""

    batch_size = 32

    def __init__(self, weights: Path, *, device: str, photographs: Path | None = None) -> None:
        """Load the weights; see ``load``."""
        if importlib.util.find_spec("torch_fidelity") is None:
            raise ValueError("FID needs torch-fidelity, which is not installed; run pip install 'erase[fid]'.")
        from torchmetrics.image.fid import FrechetInceptionDistance

        read_state(weights, "Inception")  # torch-fidelity would unpickle whatever the file holds
        metric = FrechetInceptionDistance(
            DIMENSION, feature_extractor_weights_path=str(weights), normalize=False, antialias=True
        )
        self.network = metric.inception.to(device)
        self.device = device
        self.photographs = photographs
        self.card = weights_card(weights, published=PUBLISHED)
        self.identity = {"weights_sha256": hash_weights(weights), "side": 299, "antialias": True}

    def networks(self) -> list["nn.Module"]:
        """The network."""
        return [self.network]

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Row]) -> Batch:
        """Features (n, 2048) float32 of images (H, W, 3)."""
        import torch

        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
        with torch.no_grad():
            features = self.network(batch).cpu()
        return Batch(arrays={"inception": features.reshape(len(images), -1).numpy()})


def missing(config: Config) -> str:
    """Its weights are the user's."""
    return "" if find_weights(config.weights, local_only=True) else ABSENT


def load(config: Config, *, suite: Suite, device: str) -> Inception:
    """Load the network.

    Raises:
        FileNotFoundError: There is no such file, or no such folder of photographs.
        ValueError: torch-fidelity is not installed, the file holds something else, or the folder holds no photograph.
    """
    photographs = Path(config.real_images) if config.real_images else None
    if photographs is not None:
        list_photographs(photographs)
    return Inception(find_weights(config.weights) or Path(config.weights), device=device, photographs=photographs)
