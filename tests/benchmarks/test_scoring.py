"""Scoring beside the straightforward way: one thread, and every scorer reads and decodes each image by itself.

What is compared is the time outside the forwards of the networks: reading, hashing, decoding, preparing, comparing and
keeping. Images of the canvas, 48 px, are enlarged to 512 px, so that decoding counts as it does for Stable Diffusion.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erase.canvas.judge import load_judge
from erase.canvas.weights import load_base, load_gold
from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from eval.draw.drawn import Drawn
from eval.formulas.drift import rms_drift
from eval.models.clock import measure
from eval.models.fingerprint import Fingerprint
from eval.score.run import load_scorers, score_all
from eval.score.scorer import Scorer
from eval.score.scorers import clip
from eval.suite.rows import Row
from eval.suite.suite import load_suite


pytestmark = pytest.mark.slow

SIDE = 512
ROWS = [
    Row(prompt_id=f"{style}_{name}", prompt=f"A {name} image in {style.replace('_', ' ')} style.", seed=seed)
    for style in STYLE_NAMES[:4]
    for name in OBJECT_NAMES[:6]
    for seed in (1, 2, 3, 4)
]
RATIO = 0.6  # of the straightforward way; measured on two busy cores: 0.28 to 0.37


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Drawn]:
    """Images of the base and of a gold model."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("images")
    models = []
    for label, pipe in (("base", load_base(dtype=torch.float32)), ("gold", load_gold("Cats", dtype=torch.float32))):
        pipe.set_progress_bar_config(disable=True)
        folder = root / label
        (folder / "images").mkdir(parents=True)
        records = []
        for start in range(0, len(ROWS), 32):
            rows = ROWS[start : start + 32]
            generators = [torch.Generator().manual_seed(row.seed) for row in rows]
            images = pipe([row.prompt for row in rows], num_inference_steps=4, generator=generators).images
            records += [_save(folder, row, image) for row, image in zip(rows, images, strict=True)]
        (folder / "manifest-0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        base = "" if label == "base" else "base"
        models.append(Drawn(label=label, role=label, base=base, folder=folder, fingerprint=Fingerprint({}, {}, label)))
    return models


def _save(folder: Path, row: Row, image: Image.Image) -> dict[str, Any]:
    path = folder / f"images/{row.key}.png"
    image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return {
        "key": row.key,
        "prompt_text": row.prompt,
        "latent_hash": str(row.seed),
        "image_path": f"images/{row.key}.png",
        "image_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "wall_s": 1.0,
    }


class AtItsSize(torch.nn.Module):
    """The judge of the canvas on images of any size, which it was trained to see at 48 px."""

    def __init__(self, judge: torch.nn.Module) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, batch: torch.Tensor) -> Any:
        return self.judge(torch.nn.functional.interpolate(batch, size=(48, 48), mode="area"))


class Straightforward:
    """Each scorer decodes every image by itself, one after the other."""

    def __init__(self, judge: Scorer, scorer: clip.Clip) -> None:
        self.judge, self.clip = judge, scorer

    def score(self, folder: Path, base: Path | None) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (folder / "manifest-0.jsonl").read_text().splitlines()]
        paths = [folder / record["image_path"] for record in records]
        for path, record in zip(paths, records, strict=True):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == record["image_sha256"]
        judged = np.concatenate([self._judge(images) for images in _batches(paths)])
        broken = [self._sign(image) for image in _images(paths)]
        seen = np.concatenate([self._see(images) for images in _batches(paths)])
        prompts = list(dict.fromkeys(row.prompt for row in ROWS))
        texts = self.clip.texts(prompts)[[prompts.index(row.prompt) for row in ROWS]]
        drift = [None] * len(paths) if base is None else self._drift(paths, base)
        codes = [hashlib.sha256(image.tobytes()).hexdigest() for image in _images(paths)]
        copies = Counter(codes)
        return [
            {
                "judge_style": STYLE_NAMES[judged[place].argmax()],
                "broken": broken[place] or ("duplicate" if copies[codes[place]] > 1 else ""),
                "clip": round(float(seen[place] @ texts[place]), 6),
                "drift": drift[place],
            }
            for place in range(len(paths))
        ]

    def _judge(self, images: Sequence[Image.Image]) -> np.ndarray:
        stacked = np.stack([np.asarray(image) for image in images])
        batch = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            return self.judge.networks()[0](batch).style_logits.softmax(1).numpy()

    def _sign(self, image: Image.Image) -> str:
        grey, values = np.asarray(image.convert("L"), np.float64), np.asarray(image)
        share = np.histogram(grey, bins=32, range=(0, 256))[0] / grey.size
        share = share[share > 0]
        if grey.std() < 4:
            return "blank"
        if ((values <= 2) | (values >= 253)).mean() > 0.98:
            return "saturated"
        return "low entropy" if -(share * np.log2(share)).sum() < 0.75 else ""

    def _see(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self.clip.score([self.clip.preprocess(image) for image in images], []).arrays["clip"]

    def _drift(self, paths: Sequence[Path], base: Path) -> list[float]:
        pairs = zip(_images(paths), _images([base / "images" / path.name for path in paths]), strict=True)
        gaps = [rms_drift(*(np.asarray(image, np.float64)[None] for image in pair)) / 255 for pair in pairs]
        return [round(float(gap[0]), 6) for gap in gaps]


def _images(paths: Sequence[Path]) -> Iterator[Image.Image]:
    for path in paths:
        with Image.open(path) as image:
            yield image.convert("RGB")


def _batches(paths: Sequence[Path]) -> Iterator[list[Image.Image]]:
    for start in range(0, len(paths), 32):
        yield list(_images(paths[start : start + 32]))


def test_the_work_around_the_forwards_is_a_fraction_of_the_straightforward_way(drawn: list[Drawn]) -> None:
    scorers = load_scorers(load_suite("canvas"))
    scorers.loaded["judge"].network = AtItsSize(load_judge()).eval()
    plain = Straightforward(scorers.loaded["judge"], scorers.loaded["clip"])
    with measure(scorers.networks()) as straightforward:
        expected = [plain.score(each.folder, drawn[0].folder if each.base else None) for each in drawn]
    with measure(scorers.networks()) as lockstep:
        scores = score_all(drawn, {0: ROWS}, scorers)
    with measure(scorers.networks()) as known:
        score_all(drawn, {0: ROWS}, scorers)
    for each, records in zip(drawn, expected, strict=True):
        for record, row in zip(records, scores[each.label].records.rows, strict=True):
            assert (row["judge_style"], row["broken"]) == (record["judge_style"], record["broken"])
            assert row["clip"] == pytest.approx(record["clip"], abs=2e-6)
            assert row["drift"] == (None if record["drift"] is None else pytest.approx(record["drift"], abs=1e-6))
    n = len(drawn) * len(ROWS)
    clocks = {"straightforward": straightforward, "lockstep": lockstep, "all known": known}
    outside = {name: (clock.wall - clock.inside) / n for name, clock in clocks.items()}
    ratio = outside["lockstep"] / outside["straightforward"]
    words = [
        f"{name}: {1e3 * outside[name]:.2f} ms per image outside the forwards, {1e3 * clock.inside / n:.2f} ms in them"
        for name, clock in clocks.items()
    ]
    sys.stdout.write("\n".join(["", *words, f"ratio of the work outside: {ratio:.3f}", ""]))
    assert ratio < RATIO
    assert outside["all known"] < outside["lockstep"]
