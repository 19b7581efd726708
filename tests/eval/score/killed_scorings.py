"""Kill evaluations while they score, go on, and print what each ends in as JSON; ``test_score_store.py`` starts it.

Usage: python killed_scorings.py PIPELINE_FOLDER EMPTY_FOLDER

One interpreter forks a process for every evaluation: real processes and real SIGKILLs, but diffusers is imported once.
The images are drawn before; a pair of scorers whose answers are planted counts what it is asked.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from erase.concept import Concept
from eval.draw import manifest
from eval.evaluate_prompts import Named, PromptScorers, evaluate
from eval.models import subject
from eval.score.scorers import clip, nudity, validity, vlm
from eval.score.scoring import Scorers
from eval.suite.prompt_config import PromptFile, PromptSuiteConfig


PROMPTS = [f"a cat {place}" for place in range(20)]
KILLED = "killed"
BATCHES = {"nudity": nudity.Config.batch_size, "vlm": vlm.Config.batch_size}


class Planted:
    """Answers by the image alone, and counts the images that it is shown."""

    def __init__(self, name: str) -> None:
        self.card = {"judge": name, "version": "1", "weights_sha256": "0" * 64, "floor": 0.25}
        self.shown = 0

    def __call__(self, images: Sequence[Image.Image], asked: Sequence[Sequence[str]] | None = None) -> list[Any]:
        self.shown += len(images)
        redness = [float(np.asarray(image)[:, :, 0].mean() / 255) for image in images]
        if asked is None:
            return [[("BUTTOCKS_EXPOSED", value, [0, 0, 4, 4])] for value in redness]
        return [[value > 0.5 for _ in things] for value, things in zip(redness, asked, strict=True)]


def in_batch(number: int) -> Callable[[], None]:
    """Die while this batch of scores is appended, with half of a line of it on disk after the whole ones."""

    def arm() -> None:
        calls, append = [], manifest.append

        def stop(path: Path, records: list[dict[str, Any]]) -> None:
            calls.append(1)
            if len(calls) < number:
                return append(path, records)
            append(path, records[:-1])
            line = json.dumps(records[-1], ensure_ascii=False).encode()
            with path.open("ab") as file:
                file.write(line[: len(line) // 2])
            return os.kill(os.getpid(), signal.SIGKILL)

        manifest.append = stop

    return arm


def score(name: str, arm: Callable[[], None] | None = None) -> dict[str, int] | str:
    """Evaluate in a process of its own; returns what the scorers were shown, or that it was killed."""
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
        found = file.read()
    return KILLED if os.WIFSIGNALED(status) else json.loads(found)


def run(name: str) -> dict[str, int]:
    root = Path(sys.argv[2])
    file = PromptFile(path=str(root / "prompts.csv"), source="this test", shows="a cat")
    suite = PromptSuiteConfig(
        name="few", prompts=[file], scorers=["nudity", "clip", "vlm"], num_inference_steps=1, resamples=10
    )
    model = Named("m", subject.describe(Path(sys.argv[1]), concept=Concept(target=("cat",)), base=sys.argv[1]))
    images = Scorers(
        classifier=None,
        validity=validity.load(validity.Config()),
        clip=clip.load(clip.Config(model="canvas", batch_size=8)),
    )
    shown = {"nudity": Planted("nudity"), "vlm": Planted("vlm")}
    seen = {"image": 0, "text": 0}

    def count(what: str) -> Callable[..., None]:
        return lambda _module, inputs, _output: seen.update({what: seen[what] + len(inputs[0])})

    images.clip.model.visual.register_forward_hook(count("image"))
    images.clip.model.ln_final.register_forward_hook(count("text"))
    evaluate([model], suite, root / name, scorers=PromptScorers(images=images, **shown), progress=False)
    return seen | {what: scorer.shown for what, scorer in shown.items()}


def outcome(name: str, killed: dict[str, int] | str) -> dict[str, Any]:
    """What is on disk after the kill, and what it takes to go on."""
    lines = {path.name.split("-")[0]: 0 for path in (Path(sys.argv[2]) / name).rglob("scores/*.jsonl")}
    for path in (Path(sys.argv[2]) / name).rglob("scores/*.jsonl"):
        lines[path.name.split("-")[0]] += path.read_bytes().count(b"\n")
    found = score(name)
    scores = {each: (Path(sys.argv[2]) / each / "scores.jsonl").read_bytes() for each in ("unbroken", name)}
    return {
        "killed": killed == KILLED,
        "kept": lines,
        "shown": found,
        "same scores": scores[name] == scores["unbroken"],
        "again": score(name),
    }


if __name__ == "__main__":
    tqdm.set_lock(RLock())  # its own lock is shared between processes: one killed with it would block all that follow
    torch.set_num_threads(1)  # before the first computation: a pool of threads would not survive the fork
    where = Path(sys.argv[2])
    (where / "prompts.csv").write_text("prompt\n" + "\n".join(PROMPTS), encoding="utf-8")
    report: dict[str, Any] = {"unbroken": run("unbroken")}
    for number in (2, 5, 8, 11):  # of CLIP, of its prompts, of the detector, of the model that answers
        for each in ("m", "reference"):  # the images, without what was scored
            shutil.copytree(where / "unbroken" / each, where / f"{number}" / each)
        for folder in (where / f"{number}").rglob("scores"):
            shutil.rmtree(folder)
        report[f"batch {number}"] = outcome(f"{number}", score(f"{number}", in_batch(number)))
    sys.stdout.write(json.dumps(report) + "\n")
