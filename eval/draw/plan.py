"""What an evaluation would do and cost, found out without loading a model: images, UNet forwards, disk, time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from erase.plan import duration
from eval.draw import prompt_set
from eval.score.prompt_scoring import missing_weights
from eval.suite.config import SuiteConfig
from eval.suite.prompt_config import PromptSuiteConfig
from eval.suite.rows import Row


class Job(NamedTuple):
    """The images of one model."""

    label: str  # base, or what the report calls the model
    model: str  # folder, hub id, or ``canvas``
    rows: Sequence[Row]
    out: Path  # where its images go


def describe(config: SuiteConfig, jobs: Sequence[Job], *, out: Path, device: str, dtype: str) -> str:
    """The plan in lines for a terminal: the suite, the images of each model, and how they are judged.

    Args:
        config: the suite.
        jobs: the models. Images that lie in the folder of an erased model are not counted again; which images of a base
            are in the cache shows only once it is loaded, so that all of them are counted.
        out: where everything goes.
        device: where models run.
        dtype: of the models.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model that draws from more than a text.
    """
    styles, objects = config.axes
    cells = f"{len(styles)} styles x {len(objects)} objects x {len(config.seeds)} seeds"
    grid = len(styles) * len(objects) * len(config.seeds)
    judge = f"{config.judge}, of the world {config.world}" if config.has_judge else "not run: weights absent"
    head = f"suite:          {config.name} {config.version}: {cells} = {grid:,} images of the grid for each model"
    return "\n".join(
        [head, f"folder:         {out}", *_job_lines(config, jobs, device, dtype), f"judge:          {judge}"]
    )


def describe_prompts(config: PromptSuiteConfig, jobs: Sequence[Job], *, out: Path, device: str, dtype: str) -> str:
    """The same for a suite of prompt files, with the scorers that have no weights.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model that draws from more than a text.
    """
    absent = missing_weights(config)
    fetched = f", unless {config.inception} can be fetched" if config.inception else ""
    why = {name: f" (not run: weights absent{fetched if name == 'inception' else ''})" for name in absent}
    scorers = [name + why.get(name, "") for name in config.scorers]
    head = f"suite:          {config.name} {config.version}: {len(jobs[0].rows):,} images for each model"
    return "\n".join(
        [
            head,
            f"folder:         {out}",
            *_job_lines(config, jobs, device, dtype),
            f"scorers:        {', '.join(scorers)}",
        ]
    )


def _job_lines(config: SuiteConfig | PromptSuiteConfig, jobs: Sequence[Job], device: str, dtype: str) -> list[str]:
    lines = []
    plans = [_plan(config, job, device, dtype) for job in jobs]
    for job, plan in zip(jobs, plans, strict=True):
        lines += ["", f"{job.label} ({job.model})", prompt_set.describe(plan)]
    missing = sum(plan.images - plan.done for plan in plans)
    forwards, seconds = [plan.unet_forwards for plan in plans], [plan.seconds for plan in plans]
    told = [f"{missing:,} images to draw"]
    if None not in forwards:
        told.append(f"{sum(each or 0 for each in forwards):,} UNet forwards")
    if None not in seconds:
        told.append(f"about {duration(sum(each or 0.0 for each in seconds))}")
    return [*lines, "", f"all:            {', '.join(told)}"]


def _plan(config: SuiteConfig | PromptSuiteConfig, job: Job, device: str, dtype: str) -> prompt_set.Plan:
    settings = prompt_set.Config(
        model=job.model,
        prompts=config.name,
        out=job.out,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        batch_size=config.batch_size,
        device=device,
        dtype=dtype,
    )
    return prompt_set.plan_rows(settings, job.rows)
