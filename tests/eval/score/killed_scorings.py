"""Kill scorings, go on, and print what each ends in as JSON; ``test_score_store.py`` starts it.

Usage: python killed_scorings.py EMPTY_FOLDER

One interpreter forks a process for every scoring: real processes and real SIGKILLs, but torch is imported once. Scorers
whose answers are planted count what they are asked.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eval.draw.drawn import Drawn
from eval.models.fingerprint import Fingerprint
from eval.score import store
from eval.score.run import Scorers, score_all
from eval.score.scorer import Batch, Scorer
from eval.score.scorers import clip
from eval.score.table import write_scores
from eval.suite.rows import Row


ROWS = [Row(prompt_id=f"cat{place}", prompt=f"a cat {place}", seed=1) for place in range(20)]
KILLED = "killed"


def place() -> Path:
    """The folder that everything goes into."""
    return Path(sys.argv[1])


class Planted(Scorer):
    """Answers by the image alone, and counts the images that it is shown."""

    def __init__(self, column: str, batch_size: int) -> None:
        self.column, self.batch_size = column, batch_size
        self.identity = {"column": column}
        self.shown = 0

    def score(self, images: Sequence[Any], rows: Sequence[Row]) -> Batch:
        self.shown += len(images)
        redness = [float(image[:, :, 0].mean() / 255) for image in images]
        if self.column == "detections":
            return Batch({"detections": [[["BUTTOCKS_EXPOSED", value, [0, 0, 4, 4]]] for value in redness]})
        return Batch({"shown": [[value > 0.5] for value in redness]})


def in_batch(number: int) -> Callable[[], None]:
    """Die while this batch of scores is appended, with half of a line of it on disk after the whole ones."""

    def arm() -> None:
        calls, append = [], store.append_lines

        def stop(path: Path, records: list[dict[str, Any]]) -> None:
            calls.append(1)
            if len(calls) < number:
                return append(path, records)
            append(path, records[:-1])
            line = json.dumps(records[-1], ensure_ascii=False).encode()
            with path.open("ab") as file:
                file.write(line[: len(line) // 2])
            return os.kill(os.getpid(), signal.SIGKILL)

        store.append_lines = stop

    return arm


def score(name: str, arm: Callable[[], None] | None = None) -> dict[str, int] | str:
    """Score in a process of its own; returns what the scorers were shown, or that it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if arm:
                arm()
            os.write(writing, json.dumps(run(name)).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading) as file:
        said = file.read()
    return KILLED if os.WIFSIGNALED(status) else json.loads(said)


def run(name: str) -> dict[str, int]:
    shown = {"nudity": Planted("detections", 16), "vlm": Planted("shown", 4)}
    scorer = clip.Clip(clip.Config(model="canvas"), device="cpu")
    scorer.batch_size = 8
    seen = {"image": 0, "text": 0}

    def count(what: str) -> Callable[..., None]:
        return lambda _module, inputs, _output: seen.update({what: seen[what] + len(inputs[0])})

    scorer.model.visual.register_forward_hook(count("image"))
    scorer.model.ln_final.register_forward_hook(count("text"))
    mark = Fingerprint({}, {}, "")
    drawn = [
        Drawn(label="base", role="base", base="", folder=place() / name / "base", fingerprint=mark),
        Drawn(label="m", role="erased", base="base", folder=place() / name / "m", fingerprint=mark),
    ]
    write_scores(
        place() / name, score_all(drawn, {0: ROWS}, Scorers({"nudity": shown["nudity"], "clip": scorer} | shown))
    )
    return seen | {what: each.shown for what, each in shown.items()}


def outcome(name: str, killed: dict[str, int] | str) -> dict[str, Any]:
    """What is on disk after the kill, and what it takes to go on."""
    lines: dict[str, int] = {}
    for path in (place() / name).rglob("scores/*.jsonl"):
        scorer = path.name.rpartition("-")[0]
        lines[scorer] = lines.get(scorer, 0) + path.read_bytes().count(b"\n")
    shown = score(name)
    files = ("scores.jsonl", "features.safetensors")
    return {
        "killed": killed == KILLED,
        "kept": lines,
        "shown": shown,
        "same scores": all(
            (place() / name / file).read_bytes() == (place() / "unbroken" / file).read_bytes() for file in files
        ),
        "again": score(name),
    }


def draw(folder: Path, seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    with (folder / "manifest-0.jsonl").open("w", encoding="utf-8") as file:
        for place, row in enumerate(ROWS):
            path = folder / f"images/{row.key}.png"
            pixels = np.random.default_rng([seed, place]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            code = hashlib.sha256(path.read_bytes()).hexdigest()
            record = {"key": row.key, "prompt_text": row.prompt, "latent_hash": "", "wall_s": 1.0}
            record |= {"image_path": f"images/{row.key}.png", "image_sha256": code}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)  # before the first computation: a pool of threads would not survive the fork
    for seed, label in enumerate(("base", "m")):
        draw(place() / "drawn" / label, seed)
    shutil.copytree(place() / "drawn", place() / "unbroken")
    report: dict[str, Any] = {"unbroken": run("unbroken")}
    # the prompts, pixels, the detector, CLIP and the model that answers, of the base and of the other model
    for number in (2, 4, 5, 7, 10, 13, 15, 20):
        shutil.copytree(place() / "drawn", place() / f"{number}")
        report[f"batch {number}"] = outcome(f"{number}", score(f"{number}", in_batch(number)))
    sys.stdout.write(json.dumps(report) + "\n")
