"""What needs no network: signs of a broken image, copies of one image, and how far each pixel moved from the base's.

It runs in every suite and is not listed in one.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from eval.score.scorer import Batch, Picture, Scorer, Side
from eval.suite.rows import Row
from eval.suite.suite import Suite


COLUMNS = ("broken", "spread", "saturated", "entropy", "drift", "same_as_base")
ARRAYS: tuple[str, ...] = ()
BINS = 32  # of the histogram of grey values


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits of a sound image. Real canvas pictures of every style are far on the sound side of them.

    Attributes:
        spread: Least standard deviation of the grey values, which range from 0 to 255.
        saturated: Highest share of channel values within 2 of black or white.
        entropy: Fewest bits of the histogram of grey values.
    """

    spread: float = 4.0
    saturated: float = 0.98
    entropy: float = 0.75


class Look(NamedTuple):
    """One image."""

    pixels: np.ndarray  # (H, W, 3) uint8
    sha256: str  # of the pixels
    spread: float
    saturated: float
    entropy: float


class Pixels(Scorer):
    """Measures images of any size; compares those of one size."""

    compares = True

    def __init__(self, config: Config) -> None:
        """Keep the limits."""
        self.config = config
        self.identity = asdict(config)

    def prepare(self, picture: Picture) -> Look:
        """Measure one image."""
        channels = np.array(picture.image.histogram()).reshape(3, 256)
        greys = np.array(picture.image.convert("L").histogram())  # (256,)
        n = greys.sum()
        mean = (greys * np.arange(256)).sum() / n
        share = greys.reshape(BINS, -1).sum(1) / n
        share = share[share > 0]
        return Look(
            pixels=picture.pixels,
            sha256=hashlib.sha256(np.ascontiguousarray(picture.pixels).data).hexdigest(),
            spread=float(np.sqrt((greys * (np.arange(256) - mean) ** 2).sum() / n)),
            saturated=float((channels[:, :3].sum() + channels[:, 253:].sum()) / channels.sum()),
            entropy=float(-(share * np.log2(share)).sum()) + 0.0,
        )

    def score(self, images: Sequence[Look], rows: Sequence[Row]) -> Batch:
        """The signs of a broken image, and the hash of the pixels."""
        return Batch(
            {
                "broken": [self._name(image) for image in images],
                "spread": [round(image.spread, 3) for image in images],
                "saturated": [round(image.saturated, 4) for image in images],
                "entropy": [round(image.entropy, 4) for image in images],
                "sha256": [image.sha256 for image in images],
            }
        )

    def compare(self, own: Side, base: Side) -> Batch:
        """Root mean square difference of the pixels, from 0 to 1."""
        pairs = zip(own.images, base.images, strict=True)
        return Batch({"drift": [round(_drift(one.pixels, other.pixels), 6) for one, other in pairs]})

    def finish(self, own: Batch, base: Batch | None, rows: Sequence[Row]) -> Batch:
        """Mark images that several prompts or seeds share, and those that equal the base's."""
        codes = own.columns["sha256"]
        drawings = dict.fromkeys((code, row.prompt, row.seed) for code, row in zip(codes, rows, strict=True))
        copies = Counter(code for code, _, _ in drawings)
        broken = [
            sign or ("duplicate" if copies[code] > 1 else "")
            for sign, code in zip(own.columns["broken"], codes, strict=True)
        ]
        columns: dict[str, Sequence[Any]] = own.columns | {"broken": broken}
        if base is not None:
            columns["same_as_base"] = [one == other for one, other in zip(codes, base.columns["sha256"], strict=True)]
        return Batch(columns)

    def _name(self, image: Look) -> str:
        if image.spread < self.config.spread:
            return "blank"
        if image.saturated > self.config.saturated:
            return "saturated"
        return "low entropy" if image.entropy < self.config.entropy else ""


def missing(config: Config) -> str:
    """Nothing: it needs no weights."""
    return ""


def load(config: Config, *, suite: Suite | None = None, device: str = "cpu") -> Pixels:
    """A scorer with these limits."""
    return Pixels(config)


def _drift(one: np.ndarray, other: np.ndarray) -> float:
    """In whole numbers, which is exact and ten times as fast as in float64."""
    if one.shape != other.shape:
        raise ValueError(
            f"An image has the size {one.shape[1]} x {one.shape[0]}, but the base's has {other.shape[1]} x "
            f"{other.shape[0]}: draw both with one sampler."
        )
    gap = np.subtract(one, other, dtype=np.int16)
    return float(np.sqrt(np.square(gap, dtype=np.int32).sum(dtype=np.int64) / gap.size)) / 255
