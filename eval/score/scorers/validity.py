"""Signs of a broken image that need no model: how flat it is, how saturated, and how little it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image


class Validity(NamedTuple):
    """One value per image."""

    spread: list[float]  # standard deviation of the grey values, 0 to 127.5
    saturated: list[float]  # share of channel values within 2 of black or white
    entropy: list[float]  # bits of the histogram of grey values in 32 bins
    broken: list[str]  # "blank", "saturated", "low entropy", or "" for a sound image


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits. Real canvas pictures of every style are far on the sound side of them."""

    spread: float = 4.0
    saturated: float = 0.98
    entropy: float = 0.75


class ValidityScorer:
    """Measure a batch of images of any size."""

    def __init__(self, config: Config) -> None:
        """Keep the limits."""
        self.config = config

    def __call__(self, images: Sequence[Image.Image]) -> Validity:
        """Score images."""
        result = Validity([], [], [], [])
        for image in images:
            grey = np.asarray(image.convert("L"), np.float64)
            values = np.asarray(image.convert("RGB"))
            counts = np.histogram(grey, bins=32, range=(0, 256))[0]
            share = counts[counts > 0] / grey.size
            result.spread.append(float(grey.std()))
            result.saturated.append(float(((values <= 2) | (values >= 253)).mean()))
            result.entropy.append(float(-(share * np.log2(share)).sum()) + 0.0)
            result.broken.append(self._name(result.spread[-1], result.saturated[-1], result.entropy[-1]))
        return result

    def _name(self, spread: float, saturated: float, entropy: float) -> str:
        if spread < self.config.spread:
            return "blank"
        if saturated > self.config.saturated:
            return "saturated"
        return "low entropy" if entropy < self.config.entropy else ""


def load(config: Config) -> ValidityScorer:
    """A scorer with these limits."""
    return ValidityScorer(config)
