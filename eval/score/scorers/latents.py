"""Latents of images under the base's VAE, for distances that do not count what the VAE throws away."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from eval.score.scorers.classifier import pixels


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which VAE; it is used where it is and in its own type."""

    vae: AutoencoderKL
    batch_size: int = 32


class Latents:
    """Encode a batch of images."""

    def __init__(self, config: Config) -> None:
        """Keep a loaded VAE."""
        self.vae = config.vae
        self.batch_size = config.batch_size

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Scaled posterior means of images of one size: (n, 4, H/8, W/8) float32, in the unit that a UNet sees."""
        encoded = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                batch = pixels(images[start : start + self.batch_size]).to(self.vae.device, self.vae.dtype)
                encoded.append(self.vae.encode(batch).latent_dist.mean * self.vae.config.scaling_factor)
        return torch.cat(encoded).float().cpu().numpy()


def load(config: Config) -> Latents:
    """Encode with this VAE.

    Raises:
        ValueError: the VAE is in training mode.
    """
    if config.vae.training:
        raise ValueError("The VAE is in training mode; call its eval() first.")
    return Latents(config)
