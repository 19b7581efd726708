"""The rendered pictures of the canvas world, in disjoint splits, as UnlearnCanvas folders or packed arrays."""

from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from erase.canvas.artwork import load_sprites
from erase.canvas.scenes import render
from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES


WORLD = 3  # version of the pictures; 2 had more drawings and two diagonals, 1 two smaller objects side by side
# split -> (seed, one-object pictures per cell, two-object pictures per cell); no picture is in two splits
SPLITS = {"generator": (1, 200, 160), "judge": (2, 120, 120), "held_out": (3, 10, 5)}


class Pictures(NamedTuple):
    """One split: uint8 images (N, S, S, 3) and labels; ``second`` is -1 where there is one object only."""

    images: np.ndarray
    style: np.ndarray
    first: np.ndarray
    second: np.ndarray


def build(split: str, emoji: Path, out: Path, workers: int = 2) -> Path:
    """Render a split to ``out/<split>.npz``, the same bytes for any number of workers.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    tasks = [(style, obj) for style in range(len(STYLE_NAMES)) for obj in range(len(OBJECT_NAMES))]
    with ProcessPoolExecutor(workers) as pool:
        cells = list(tqdm(pool.map(partial(_cell, split, emoji), tasks), total=len(tasks), desc=f"render {split}"))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{split}.npz"
    partial_path = out / f"{split}.partial.npz"
    packed = {key: np.concatenate([getattr(cell, key) for cell in cells]) for key in Pictures._fields}
    np.savez(partial_path, allow_pickle=False, **packed)
    partial_path.rename(path)
    return path


def load(path: Path) -> Pictures:
    """Read a split that ``build`` wrote.

    Raises:
        FileNotFoundError: it was not built yet.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run `erase canvas build` first.")
    with np.load(path) as arrays:
        return Pictures(**{key: arrays[key] for key in Pictures._fields})


def write_folders(pictures: Pictures, out: Path) -> None:
    """Write the one-object pictures as ``style/object/index.png``, the layout of UnlearnCanvas."""
    counts: dict[tuple[int, int], int] = {}
    for image, style, first, second in zip(*pictures, strict=True):
        if second < 0:
            index = counts[(style, first)] = counts.get((style, first), 0) + 1
            folder = out / STYLE_NAMES[style] / OBJECT_NAMES[first]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index}.png")


def _cell(split: str, emoji: Path, cell: tuple[int, int]) -> Pictures:
    style, obj = cell
    seed, count, pairs = SPLITS[split]
    rng = np.random.default_rng((seed, style, obj))
    sprites = _sprites(emoji)
    images, second = [], []
    for index in range(count + pairs):
        other = -1 if index < count else int(rng.choice([k for k in range(len(OBJECT_NAMES)) if k != obj]))
        names = [OBJECT_NAMES[obj]] if other < 0 else [OBJECT_NAMES[obj], OBJECT_NAMES[other]]
        drawings = [sprites[name][rng.integers(len(sprites[name]))] for name in names]
        images.append(render(STYLE_NAMES[style], drawings, rng))
        second.append(other)
    size = len(images)
    return Pictures(np.stack(images), np.full(size, style), np.full(size, obj), np.array(second))


@cache
def _sprites(emoji: Path) -> dict[str, list[Image.Image]]:
    return load_sprites(emoji)  # unpacking takes over a second: once per worker
