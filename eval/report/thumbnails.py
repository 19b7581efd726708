"""The images of a page as small WebP files in base64."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from eval.results import Wall


# side in pixels and WebP quality, tried in turn until all images fit; the files beside the report are untouched
STAGES = ((96, 82), (96, 60), (72, 60), (48, 50))
PIXELATED = ((8, 80),)  # nothing can be made out
BUDGET = 7_000_000  # characters of all thumbnails together


def wall_thumbnails(wall: Wall, out: Path) -> dict[str, str]:
    """SHA-256 of every image of a wall -> its thumbnail; each distinct image is encoded once.

    Args:
        wall: Its images may be explicit, in which case they have a few pixels.
        out: The folder of the report.

    Raises:
        FileNotFoundError: An image is missing, even one of which another model has a copy.
    """
    paths: dict[str, Path] = {}
    for mark in (mark for marks in wall.marks.values() for mark in marks):
        path = out / mark.image
        if not path.exists():
            raise FileNotFoundError(f"The image {path} is missing; run `erase eval` again to make it.")
        paths.setdefault(mark.sha256, path)
    encoded = thumbnails(list(paths.values()), PIXELATED if wall.is_pixelated else STAGES)
    return dict(zip(paths, encoded, strict=True))


def thumbnails(paths: Sequence[Path], stages: Sequence[tuple[int, int]] = STAGES) -> list[str]:
    """Encode images as WebP in base64, smaller and coarser where they would not fit into the budget.

    Args:
        paths: Of the images.
        stages: Sides and qualities to try in turn, the last one whatever it takes.
    """
    for side, quality in stages[:-1]:
        encoded, total = [], 0
        for path in paths:
            encoded.append(_thumbnail(path, side, quality))
            total += len(encoded[-1])
            if total > BUDGET:
                break
        else:
            return encoded
    return [_thumbnail(path, *stages[-1]) for path in paths]


def _thumbnail(path: Path, side: int, quality: int) -> str:
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()
