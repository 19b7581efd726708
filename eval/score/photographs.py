"""The user's own images, to which the images of models are compared as a set."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from eval.files import sha256
from eval.score.reading import READERS, decode
from eval.score.scorer import Picture, Scorer
from eval.score.store import Key, Store, score_once


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def list_photographs(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of real images {folder} does not exist; write its path, or leave it empty."
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"The folder of real images {folder} holds none ({', '.join(SUFFIXES)}); name another one.")
    return paths


def score_photographs(name: str, scorer: Scorer, size: tuple[int, int], cache: Path) -> np.ndarray:
    """What a scorer's array of its own name holds for its photographs, each cropped at the centre to one size.

    Args:
        name: Of the scorer and of its array.
        scorer: With a folder of photographs.
        size: Width and height of the images that models draw.
        cache: Folder that keeps the scores; the user's own folder is left as it is.
    """
    if scorer.photographs is None:
        raise ValueError(f"The scorer {name} has no folder of real images: give it one.")
    paths = list_photographs(scorer.photographs)
    with ThreadPoolExecutor(READERS) as pool:
        shape = f"{size[0]} x {size[1]}"
        keys = [Key(code, shape) for code in pool.map(sha256, paths)]

        def score(chunk: slice) -> np.ndarray:
            images: Sequence[Any] = list(pool.map(partial(_prepare, scorer, size), paths[chunk]))
            return scorer.score(images, []).arrays[name]

        store = Store(cache / "real", name, scorer.identity)
        return np.stack(score_once(store, keys, score, batch_size=scorer.batch_size))


def _prepare(scorer: Scorer, size: tuple[int, int], path: Path) -> Any:  # noqa: ANN401 - whatever the scorer works on
    image = decode(path.read_bytes()).image
    return scorer.prepare(Picture(ImageOps.fit(image, size, Image.Resampling.BICUBIC)))
