"""Folders of images as drawing leaves them, without drawing."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.draw.drawn import Drawn
from eval.models.fingerprint import Fingerprint
from eval.suite.rows import Row


Draw = Callable[..., Drawn]


def noise(seed: int, side: int = 16) -> Image.Image:
    """A sound image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write_images(folder: Path, rows: Sequence[Row], images: Sequence[Image.Image], *, latents: str = "noise") -> None:
    """Write images and their manifest."""
    (folder / "images").mkdir(parents=True)
    with (folder / "manifest-0.jsonl").open("w", encoding="utf-8") as file:
        for row, image in zip(rows, images, strict=True):
            path = folder / f"images/{row.key}.png"
            image.save(path)
            record = {
                "key": row.key,
                "prompt_text": row.prompt,
                "latent_hash": f"{latents} {row.seed}",
                "image_path": f"images/{row.key}.png",
                "image_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "wall_s": 0.5,
                "unet_forwards": 40.0,
            }
            file.write(json.dumps(record) + "\n")


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Leave images as if a model had drawn them."""

    def write(
        label: str,
        rows: Sequence[Row],
        images: Sequence[Image.Image],
        *,
        base: str = "",
        group: int = 0,
        latents: str = "noise",
        vae: str = "v",
    ) -> Drawn:
        write_images(tmp_path / label, rows, images, latents=latents)
        mark = Fingerprint({"vae": vae}, {}, label)
        role = "erased" if base else "base"
        return Drawn(label=label, role=role, base=base, folder=tmp_path / label, fingerprint=mark, group=group)

    return write


@pytest.fixture
def rows() -> list[Row]:
    """Five rows of two prompts."""
    prompts = {"cat": "a cat", "dog": "a dog"}
    named = [("cat", 1), ("cat", 2), ("dog", 1), ("dog", 2), ("dog", 3)]
    return [Row(prompt_id=name, prompt=prompts[name], seed=seed) for name, seed in named]
