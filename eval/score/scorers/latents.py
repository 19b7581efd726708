"""Distance of images in the latents of the base's VAE, which does not count what the VAE throws away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.formulas.drift import rms_drift
from eval.score.scorer import Batch, Scorer, Side
from eval.suite.rows import Row
from eval.suite.suite import Suite


if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline
    from torch import nn

    from eval.draw.drawn import Drawn
    from eval.models.fingerprint import Fingerprint


COLUMNS = ("drift_latent",)
ARRAYS: tuple[str, ...] = ()
NO_VAE = "the base has no VAE whose latents can be compared"


@dataclass(frozen=True, kw_only=True)
class Config:
    """It has no settings: the VAE is the base's, used where it is and in its own type."""


class Latents(Scorer):
    """Encodes images of one size and compares them pair by pair."""

    scores = False
    compares = True
    batch_size = 32

    def __init__(self) -> None:
        """Know no VAE yet."""
        self.vaes: dict[str, AutoencoderKL] = {}  # by their hash
        self.current = ""

    def networks(self) -> list["nn.Module"]:
        """The parts of each VAE, whose ``encode`` is no forward of its own."""
        return [part for vae in self.vaes.values() for part in vae.children()]

    def look_at_base(self, pipe: "DiffusionPipeline", fingerprint: "Fingerprint") -> None:
        """Keep the base's VAE."""
        from diffusers import AutoencoderKL

        vae = pipe.components.get("vae")
        if isinstance(vae, AutoencoderKL):
            self.vaes[fingerprint.components["vae"]] = vae
        else:
            self.not_run = NO_VAE

    def begin(self, rows: Sequence[Row], base: "Drawn") -> Batch:
        """Choose the VAE of this base."""
        self.current = base.fingerprint.components.get("vae", "")
        self.compares = self.current in self.vaes
        self.identity = {"vae": self.current}
        return Batch()

    def compare(self, own: Side, base: Side) -> Batch:
        """Root mean square difference of the latents, in the unit that a UNet sees."""
        gaps = rms_drift(self._encode_once(own), self._encode_once(base))
        return Batch({"drift_latent": [round(float(gap), 6) for gap in gaps]})

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Scaled posterior means of images (H, W, 3): (n, 4, H/8, W/8) float32."""
        import torch

        from eval.score.classifier import to_tensor

        vae: Any = self.vaes[self.current]
        with torch.no_grad():
            mean = vae.encode(to_tensor(images).to(vae.device, vae.dtype)).latent_dist.mean
        return (mean * vae.config.scaling_factor).float().cpu().numpy()

    def _encode_once(self, side: Side) -> np.ndarray:
        """The base's images are the same for all models."""
        if "latents" not in side.notes:
            side.notes["latents"] = self.encode(side.images)
        return side.notes["latents"]


def missing(config: Config) -> str:
    """Nothing: every base brings its VAE."""
    return ""


def load(config: Config, *, suite: Suite, device: str) -> Latents:
    """Wait for a base."""
    return Latents()
