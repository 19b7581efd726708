"""Kill runs at many points, resume them, and print what each ends in as JSON; ``test_run.py`` starts it.

Usage: python killed_runs.py PIPELINE_FOLDER EMPTY_FOLDER

One interpreter forks a process for every run: real processes and real SIGKILLs, but diffusers is imported once.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import RLock

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from erase.concept import Concept
from erase.methods import advunlearn, doco, esd
from erase.training.run import Run, hash_tensors


CONCEPT = Concept(target=("a cat", "a dog"))
ANCHORED = Concept(target=("a cat", "a dog"), anchor="a fish")
SETTINGS = {"steps": 4, "batch_size": 3, "num_inference_steps": 2, "pool_size": 12, "refresh": 2, "lr": 1e-3}
DOCO = {"steps": 5, "warmup_steps": 2, "batch_size": 3, "num_inference_steps": 2, "images": 4, "lr": 1e-3}
ADVUNLEARN = {"steps": 3, "warmup_steps": 1, "retain_batch": 2, "attack_steps": 2, "num_inference_steps": 2}
RETAIN = ["a fish", "a house"]
KILLED = "killed"


@cache
def pipeline() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel(  # smaller still, for about forty runs
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return pipe


def work_folder(name: str) -> Path:
    return Path(sys.argv[2]) / name


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_forward(number: int) -> Callable[[], None]:
    """Die before this forward of the UNet."""

    def arm() -> None:
        calls: list[int] = []

        def count(*_: object) -> None:
            calls.append(1)
            if len(calls) == number:
                die()

        pipeline().unet.register_forward_pre_hook(count)

    return arm


def at_rename(number: int, *, truncated: int | None = None) -> Callable[[], None]:
    """Die between writing a checkpoint and renaming it, or while it is written, with only so many bytes on disk."""

    def arm() -> None:
        writes, rename = [], Path.rename

        def stop(path: Path, target: Path) -> Path:
            writes.append(1)
            if len(writes) == number:
                if truncated is not None:
                    os.truncate(path, truncated)
                die()
            return rename(path, target)

        Path.rename = stop

    return arm


def run(
    folder: Path | None,
    policy: str,
    *,
    arm: Callable[[], None] | None = None,
    seed: int = 0,
    seconds: float | None = None,
) -> str:
    """Erase in a process of its own; returns the hash of the trained tensors, or that it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if arm:
                arm()
            pipe, circumstances = pipeline(), Run(seed=seed, folder=folder, quiet=True, checkpoint_seconds=0)
            if policy == "advunlearn":
                settings = advunlearn.Config(**ADVUNLEARN)
                advunlearn.erase(pipe, CONCEPT, RETAIN, settings, circumstances)
            elif policy == "doco":
                doco.erase(pipe, ANCHORED, [], doco.Config(**DOCO), circumstances)
            else:
                esd.erase(pipe, CONCEPT, [], esd.Config(trajectory=policy, **SETTINGS), circumstances)
            trained = esd.select_parameters(pipe, "x") | dict(pipe.text_encoder.named_parameters())
            os.write(writing, hash_tensors(trained).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading) as file:
        found = file.read()
    return KILLED if os.WIFSIGNALED(status) else found


def resume(policy: str, name: str, *, arm: Callable[[], None] | None = None, seconds: float | None = None) -> str:
    folder = work_folder(f"{policy} {name}")
    killed = run(folder, policy, arm=arm, seconds=seconds)
    return run(folder, policy) if killed == KILLED else f"not killed: {killed}"


def kill_everywhere(policy: str, forwards: tuple[int, ...]) -> dict[str, str]:
    rows = {"unbroken": run(work_folder(policy), policy), "without a folder": run(None, policy)}
    for number in forwards:
        rows[f"forward {number}"] = resume(policy, f"forward {number}", arm=at_forward(number))
    for number in (1, 4):
        rows[f"rename {number}"] = resume(policy, f"rename {number}", arm=at_rename(number))
    rows["half a file"] = resume(policy, "half a file", arm=at_rename(3, truncated=1000))
    rows["any moment"] = resume(policy, "any moment", seconds=0.08)
    found, attempts = KILLED, 0
    while found == KILLED:  # again and again, a little further every time
        found = run(work_folder(f"{policy} often"), policy, arm=at_forward(6))
        attempts += 1
    rows["often"] = found if attempts > 1 else "never killed"
    rows["finished before"] = run(work_folder(policy), policy, arm=at_forward(1))
    return rows


def forget_optimizer(policy: str, name: str) -> str:
    """Resume from a checkpoint without the moments of one optimiser: the result has to differ."""
    folder, prefix = work_folder(f"{policy} forgets {name}"), f"optimizer.{name}."
    run(folder, policy, arm=at_forward(10 if policy == "doco" else 7))
    file = folder / "checkpoint.safetensors"
    with safe_open(file, "pt") as saved:
        kept = {key: saved.get_tensor(key) for key in saved.keys() if not key.startswith(prefix)}  # noqa: SIM118
        metadata = saved.metadata()
    save_file(kept, file, metadata)
    return run(folder, policy)


if __name__ == "__main__":
    tqdm.set_lock(RLock())  # its own lock is shared between processes: one killed with it would block all that follow
    torch.set_num_threads(1)  # before the first computation: a pool of threads would not survive the fork
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports torch._dynamo here and not in every process
    pipeline()
    # frozen: calls 1-2 and 3-4 fill the pool, 5-8 train; stale: walks, the base's calls and training in turn
    report = {"frozen": kill_everywhere("frozen", (4, 6)), "stale": kill_everywhere("stale", (4, 9))}
    # doco: calls 1-2 draw the images, 3 and 4 are the warm-up, then three for each update
    report["doco"] = kill_everywhere("doco", (2, 4, 9))
    # advunlearn: calls 1-6 fill the pool in three groups, 7 warms up, then two attack and one updates
    report["advunlearn"] = kill_everywhere("advunlearn", (4, 7, 9, 13))
    report["controls"] = {
        "another seed": run(None, "frozen", seed=1),
        "optimiser forgotten": forget_optimizer("frozen", "student"),
        "student's optimiser forgotten": forget_optimizer("doco", "student"),
        "discriminator's optimiser forgotten": forget_optimizer("doco", "discriminator"),
    }
    sys.stdout.write(json.dumps(report) + "\n")
