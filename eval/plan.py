"""What an evaluation would do and cost, found out without loading a model: images, UNet forwards, disk, time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eval import prompt_set
from eval.config import SuiteConfig
from eval.rows import Row


class Job(NamedTuple):
    """The images of one model."""

    label: str  # base, or what the report calls the model
    model: str  # folder, hub id, or ``canvas``
    rows: Sequence[Row]
    out: Path  # where its images go


def describe(config: SuiteConfig, jobs: Sequence[Job], *, device: str, dtype: str) -> str:
    """The plan in lines for a terminal: the suite, the images of each model, and how they are judged.

    Args:
        config: the suite.
        jobs: the models. Images that lie in the folder of an erased model are not counted again; which images of a base
            are in the cache shows only once it is loaded, so that all of them are counted.
        device: where models run.
        dtype: of the models.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model that is not a text-to-image pipeline of Stable Diffusion.
    """
    styles, objects = config.axes
    cells = f"{len(styles)} styles x {len(objects)} objects x {len(config.seeds)} seeds"
    grid = len(styles) * len(objects) * len(config.seeds)
    parts = [f"suite:          {config.name} {config.version}: {cells} = {grid:,} images of the grid for each model"]
    for job in jobs:
        plan = prompt_set.plan_rows(
            prompt_set.Config(
                model=job.model,
                prompts=config.name,
                out=job.out,
                guidance_scale=config.guidance_scale,
                num_inference_steps=config.num_inference_steps,
                batch_size=config.batch_size,
                device=device,
                dtype=dtype,
            ),
            job.rows,
        )
        parts.append(f"{job.label} ({job.model})\n" + prompt_set.describe(plan))
    judge = f"{config.judge}, of the world {config.world}" if config.has_judge else "not run: weights absent"
    return "\n".join([*parts, f"judge:          {judge}"])
