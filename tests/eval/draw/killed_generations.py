"""Kill generations at many points, go on, and print what each ends in as JSON; ``test_prompt_set.py`` starts it.

Usage: python killed_generations.py PIPELINE_FOLDER EMPTY_FOLDER

One interpreter forks a process for every generation: real processes and real SIGKILLs, but diffusers is imported once.
"""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from eval.draw import prompt_images, writer
from eval.draw.prompt_images import run
from eval.draw.prompt_set import Config
from eval.suite.suite import Sampler


STEPS, BATCH, SEEDS = 2, 4, (0, 1)
PROMPTS = ["un café noir", "a dog", "ein Bär", "a fox", "a hen"]
ROWS = len(PROMPTS) * len(SEEDS)
TIMINGS = ("wall_s", "peak_mem")
KILLED = "killed"
PATIENCE = 60.0  # seconds


def config(name: str) -> Config:
    root = Path(sys.argv[2])
    return Config(
        model=sys.argv[1],
        prompts=str(root / "prompts.txt"),
        out=root / name,
        seeds=SEEDS,
        sampler=Sampler(steps=STEPS, guidance_scale=None, batch_size=BATCH),
        device="cpu",
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_forward(number: int, *, is_time: Callable[[], bool] = lambda: True) -> Callable[[], None]:
    """Die before this forward of the UNet: once the images before it are on disk, or at once."""

    def arm() -> None:
        calls, forward = [], UNet2DConditionModel.forward

        def count(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == number:
                start = time.monotonic()
                while not is_time() and time.monotonic() < start + PATIENCE:
                    time.sleep(0.001)
                die()
            return forward(*args, **kwargs)

        UNet2DConditionModel.forward = count

    return arm


def at_rename(number: int, *, truncated: bool = False) -> Callable[[], None]:
    """Die between writing a file and renaming it, or while it is written, with only half of it on disk."""

    def arm() -> None:
        calls, replace = [], Path.replace

        def stop(path: Path, target: Path) -> Path:
            calls.append(1)
            if len(calls) == number:
                if truncated:
                    os.truncate(path, path.stat().st_size // 2)
                die()
            return replace(path, target)

        Path.replace = stop

    return arm


def in_record(number: int) -> Callable[[], None]:
    """Die while a record is appended: in the middle of a character, or else with half of its line on disk."""

    def arm() -> None:
        calls, append = [], writer.append_lines

        def stop(path: Path, records: list[dict[str, Any]]) -> None:
            calls.append(1)
            if len(calls) < number:
                return append(path, records)
            line = json.dumps(records[0], ensure_ascii=False).encode()
            start = line.find("é".encode())
            with path.open("ab") as file:
                file.write(line[: start + 1 if start > 0 else len(line) // 2])
            return die()

        writer.append_lines = stop

    return arm


def generate(name: str, *, arm: Callable[[], None] | None = None, seconds: float | None = None) -> int | str:
    """Generate in a process of its own; returns the UNet's samples, or that it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if arm:
                arm()
            samples, forward = [0], UNet2DConditionModel.forward

            def count(unet: UNet2DConditionModel, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                samples[0] += len(sample)
                return forward(unet, sample, *args, **kwargs)

            UNet2DConditionModel.forward = count
            run(config(name), progress=False)
            os.write(writing, str(samples[0]).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading) as file:
        samples = file.read()
    return KILLED if os.WIFSIGNALED(status) else int(samples)


def images(name: str) -> dict[str, tuple[int, str]]:
    """When each image was written, and its hash."""
    paths = sorted((config(name).out / "images").glob("*.png"))
    return {path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths}


def records(name: str) -> list[dict[str, Any]]:
    lines = (config(name).out / "manifest.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [{key: value for key, value in json.loads(line).items() if key not in TIMINGS} for line in lines]


def outcome(name: str, kept: dict[str, tuple[int, str]], samples: int | str) -> dict[str, Any]:
    now = images(name)
    return {
        "kept": len(kept),
        "untouched": all(now[image] == before for image, before in kept.items()),
        "samples": samples,
        "needed": (ROWS - len(kept)) * STEPS * 2,
        "same images": {key: code for key, (_, code) in now.items()}
        == {key: code for key, (_, code) in images("unbroken").items()},
        "same manifest": records(name) == records("unbroken"),
    }


def has_images(name: str, count: int) -> Callable[[], bool]:
    """Whether so many images are on disk; they are written while the next ones are drawn."""
    return lambda: len(list((config(name).out / "images").glob("*.png"))) >= count


def resume(name: str, **kill: Any) -> dict[str, Any]:
    killed = generate(name, **kill)
    if killed != KILLED:
        return {"kept": f"not killed: {killed}"}
    kept = images(name)
    return outcome(name, kept, generate(name))


if __name__ == "__main__":
    tqdm.set_lock(RLock())  # its own lock is shared between processes: one killed with it would block all that follow
    torch.set_num_threads(1)  # before the first computation: a pool of threads would not survive the fork
    (Path(sys.argv[2]) / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    pipe = prompt_images.open_model(config("unbroken"))
    prompt_images.open_model = lambda _: pipe  # loading takes longer than drawing, and is not what is killed here
    run(config("first"), progress=False)  # whatever is imported on the way is imported here and not in every process
    report = {"unbroken": outcome("unbroken", {}, generate("unbroken"))}
    # renames: 1 is prompts.json, 2 settings.json, 3-12 the images, 13 manifest.jsonl
    for number in (1, 2, 3, 8, 13):
        report[f"rename {number}"] = resume(f"rename {number}", arm=at_rename(number))
    for number in (1, 2, 6, 13):
        report[f"half of file {number}"] = resume(f"half {number}", arm=at_rename(number, truncated=True))
    for number in (1, 2, 5):
        report[f"record {number}"] = resume(f"record {number}", arm=in_record(number))
    report["forward 1"] = resume("forward 1", arm=at_forward(1))
    name = f"forward {STEPS + 2}"  # in the second batch
    report[name] = resume(name, arm=at_forward(STEPS + 2, is_time=has_images(name, BATCH)))
    report["forward at once"] = resume("forward at once", arm=at_forward(STEPS + 1))
    report["any moment"], seconds = {}, 0.1
    while "untouched" not in report["any moment"]:  # on a fast machine it may be over before: then kill it earlier
        report["any moment"] = resume(f"after {seconds} s", seconds=seconds)
        seconds /= 2
    samples, attempts = KILLED, 0
    while samples == KILLED:  # again and again, one batch further every time
        kept = images("often") if attempts else {}
        samples = generate("often", arm=at_forward(STEPS + 1, is_time=has_images("often", len(kept) + BATCH)))
        attempts += 1
    report["often"] = outcome("often", kept, samples) | {"attempts": attempts}
    report["finished before"] = outcome("often", images("often"), generate("often"))
    (config("often").out / "images" / images("often").popitem()[0]).unlink()
    report["an image was lost"] = outcome("often", images("often"), generate("often"))
    sys.stdout.write(json.dumps(report) + "\n")
