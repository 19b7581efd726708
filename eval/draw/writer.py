"""Writes images while the next ones are drawn: some threads encode and hash, and one thread writes in order."""

import hashlib
import io
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from eval.files import append_lines


ENCODERS = 4  # threads: a PNG of 512 x 512 pixels takes 0.2 s, eight of them as long as drawing them on a fast GPU
WAITING = 32  # images that may wait for the disk: 25 MB for 512 x 512 pixels, 100 MB for 1024 x 1024


class ImageWriter:
    """Writes images and their records, in the order in which they are added.

    The record of an image is written before the image. Whenever a kill comes, an image on disk therefore has a record
    and is not drawn again. Whatever ends the ``with`` block, the images that were added are written.
    """

    def __init__(self, folder: Path, records: Path) -> None:
        """Start the threads.

        Args:
            folder: Of the images; the ``image_path`` of a record is relative to it.
            records: The file that gets one line of JSON per image.
        """
        self._folder, self._records = folder, records
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()
        self._has_failed = False

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait until everything is written.

        Raises:
            OSError: An image could not be written, and nothing else ended the block.
        """
        self._encoders.shutdown()
        self._writer.shutdown()
        if error is None:
            for future in self._waiting:
                future.result()

    def add(self, image: Image.Image, record: Mapping[str, Any]) -> None:
        """Write an image soon; wait first if too many images wait.

        Args:
            image: It must not change any more.
            record: Its line in the manifest, without the hash of the file.

        Raises:
            OSError: An earlier image could not be written; later ones are not written either.
        """
        while self._waiting and (len(self._waiting) >= WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        png = self._encoders.submit(_encode, image)
        self._waiting.append(self._writer.submit(self._write, png, record))

    def _write(self, png: "Future[_Encoded]", record: Mapping[str, Any]) -> None:
        if self._has_failed:
            return
        try:
            content, digest = png.result()
            append_lines(self._records, [{**record, "image_sha256": digest}])
            _replace(self._folder / record["image_path"], content)
        except BaseException:
            self._has_failed = True
            raise


_Encoded = tuple[bytes, str]  # the PNG, and its SHA-256


def _encode(image: Image.Image) -> _Encoded:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    content = buffer.getvalue()
    return content, hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    try:
        partial.replace(path)
    except FileNotFoundError:  # a process that a killed launcher left behind drew the same row at the same time
        if not path.exists():
            raise
