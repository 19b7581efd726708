"""Images are read, checked, decoded and prepared by a few threads, ahead of the scorers."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from eval.score.scorer import Picture


READERS = min(8, os.cpu_count() or 1)
Job = TypeVar("Job")
Prepare = Callable[[Picture], Any]
Prepared = dict[str, Any]  # scorer -> an image as the scorer works on it


class Read(NamedTuple):
    """One image to read."""

    path: Path
    sha256: str  # that the file must have
    prepare: Mapping[str, Prepare]  # scorer -> what it makes of the image; empty: the file is only checked


def read_image(read: Read) -> Prepared:
    """Read one image once for all scorers that need it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is another one than the manifest describes.
    """
    data = read.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != read.sha256:
        raise ValueError(
            f"The image {read.path} is not the one that the manifest describes; delete it and generate it again."
        )
    if not read.prepare:
        return {}
    picture = decode(data)
    return {name: prepare(picture) for name, prepare in read.prepare.items()}


def decode(data: bytes) -> Picture:
    """Decode an image file."""
    with Image.open(io.BytesIO(data)) as image:
        return Picture(image.convert("RGB"))


def read_ahead(
    jobs: Iterable[Job], reads: Callable[[Job], Sequence[Read]], pool: ThreadPoolExecutor
) -> Iterator[tuple[Job, list[Prepared]]]:
    """Yield each job with its images, while the images of the next job are being read."""
    waiting: tuple[Job, list[Future[Prepared]]] | None = None
    for job in jobs:
        started = job, [pool.submit(read_image, read) for read in reads(job)]
        if waiting:
            yield waiting[0], [future.result() for future in waiting[1]]
        waiting = started
    if waiting:
        yield waiting[0], [future.result() for future in waiting[1]]
