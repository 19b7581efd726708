"""What drawing would do, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What drawing would do.

    Attributes:
        images: How many are asked for.
        done: How many of them are there.
        forwards: Of the UNet in samples, for the images that are missing.
        calls: Samples in one call of the UNet -> number of such calls.
        is_guided_twice: UnGuide calls the UNet again for samples that show the target.
        pixels: Pixels of an image as a multiple of the pixels that the model draws by itself.
        disk_bytes: At most what the missing images take.
        unknown: Why a number is None.
        folder: Of the images, if it is part of the plan.
    """

    images: int
    done: int
    forwards: int | None = None
    calls: Mapping[int, int] = field(default_factory=dict)
    is_guided_twice: bool = False
    pixels: float = 1.0
    disk_bytes: int | None = None
    unknown: str = ""
    folder: str = ""


class Part(NamedTuple):
    """What one model would draw."""

    label: str
    model: str  # folder, hub id, or ``canvas``
    counts: Counts
