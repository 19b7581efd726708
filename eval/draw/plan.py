"""What drawing would do and cost, found out without loading a model; torch is imported for the time only.

A plan comes in two texts: the counts, at once, and the time, which is measured.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from erase.model import base_model
from eval.draw import manifest
from eval.draw.batches import split
from eval.draw.counts import Counts, Part
from eval.files import SETTINGS
from eval.models import saved
from eval.suite.rows import Row
from eval.suite.suite import Sampler, Suite


LATER = "unknown until the model is on this machine"
RECORD_BYTES = 2_000  # of a line in the manifest, which is written twice


class Job(NamedTuple):
    """The images of one model."""

    label: str  # base, or what the report calls the model
    model: str  # folder, hub id, or ``canvas``
    rows: Sequence[Row]
    out: Path  # where its images go


def describe(
    suite: Suite, jobs: Sequence[Job], *, out: Path, device: str, dtype: str, scorer_lines: Sequence[str]
) -> Iterator[str]:
    """Yield the plan of an evaluation in lines for a terminal: first the counts, then the time.

    Args:
        suite: What is asked.
        jobs: The models. Images in the folder of an erased model are counted as there. Which images of a base are in
            the cache shows only once the base is loaded, so all of them are counted as missing.
        out: Where everything goes.
        device: Where models run.
        dtype: Of the models.
        scorer_lines: The scorers of the suite, and why one of them will not run.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: A model draws from more than a text, or the device or the dtype is unknown.
    """
    check_machine(device, dtype)
    counts = [count(job.model, job.rows, job.out, suite.sampler) for job in jobs]
    lines = [f"suite:          {suite.name} {suite.version}: {_asked(suite, jobs)}", f"folder:         {out}"]
    for job, each in zip(jobs, counts, strict=True):
        lines += ["", f"{job.label} ({job.model})", *count_lines(each)]
    total = [f"{sum(each.images - each.done for each in counts):,} images to draw"]
    if all(each.forwards is not None for each in counts):
        total.append(f"{sum(each.forwards or 0 for each in counts):,} UNet forwards")
    scorers = [f"{'' if place else 'scorers:':16}{line}" for place, line in enumerate(scorer_lines)]
    yield "\n".join([*lines, "", f"all:            {', '.join(total)}", *scorers])
    parts = [Part(job.label, job.model, each) for job, each in zip(jobs, counts, strict=True)]
    yield describe_time(parts, device=device, dtype=dtype)


def check_machine(device: str, dtype: str) -> None:
    """Refuse a device or a dtype before anything is printed; only the name of a GPU needs torch.

    Raises:
        ValueError: It says which is unknown.
    """
    base_model.check_dtype(dtype)
    if device not in ("auto", "cpu"):
        base_model.pick_device(device)


def count(model: str, rows: Sequence[Row], out: Path, sampler: Sampler) -> Counts:
    """Count what drawing these rows would take; downloads and writes nothing.

    Args:
        model: An artefact, a diffusers folder, a hub id, or ``canvas``.
        rows: What to draw.
        out: The folder of the images.
        sampler: How to draw.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The model draws from more than a text.
    """
    pipe = saved.find_saved(model)
    if pipe is None:
        missing = manifest.missing(out, rows, _recorded_guidance(out, sampler.guidance_scale))
        return Counts(images=len(rows), done=len(rows) - len(missing), unknown=LATER)
    guidance = pipe.guidance(sampler.guidance_scale)
    missing = manifest.missing(out, rows, guidance)
    done = len(rows) - len(missing)
    if not pipe.is_stable_diffusion:  # the forwards of a sample, latents and sizes differ from class to class
        is_sized = sampler.height and sampler.width
        disk = len(missing) * image_bytes(sampler.height or 0, sampler.width or 0) if is_sized else None
        unknown = f"not known beforehand for a {pipe.class_name}"
        return Counts(images=len(rows), done=done, disk_bytes=disk, unknown=unknown)
    side, steps = pipe.side(), pipe.calls(sampler.steps)
    height, width = sampler.height or side, sampler.width or side
    calls: Counter[int] = Counter()
    for batch in split(missing, sampler.batch_size, guidance):
        calls[batch.samples] += steps
    return Counts(
        images=len(rows),
        done=done,
        forwards=sum(samples * times for samples, times in calls.items()),
        calls=calls,
        is_guided_twice=pipe.is_guided_twice,
        pixels=height * width / side**2,
        disk_bytes=len(missing) * image_bytes(height, width),
    )


def count_lines(counts: Counts) -> list[str]:
    """The counts in lines for a terminal."""
    twice = ", and up to as many again for images that show the target" if counts.is_guided_twice else ""
    is_unet = counts.forwards is not None or counts.unknown == LATER
    lines = {"folder": counts.folder} if counts.folder else {}
    lines |= {
        "images": f"{counts.images:,}, of which {counts.done:,} are there",
        "UNet forwards" if is_unet else "forwards": counts.unknown
        if counts.forwards is None
        else f"{counts.forwards:,} samples{twice}",
        "disk": counts.unknown if counts.disk_bytes is None else f"at most {counts.disk_bytes / 1e6:,.3g} MB",
    }
    return [f"{name + ':':16}{text}" for name, text in lines.items()]


def describe_time(parts: Sequence[Part], *, device: str, dtype: str) -> str:
    """The time that drawing takes, in a line for a terminal; the only text of a plan that needs torch.

    Args:
        parts: What each model would draw; the label of a single model is not printed.
        device: Where to measure; ``auto`` takes a GPU if there is one.
        dtype: Of the models.
    """
    if any(each.counts.calls for each in parts):
        from eval.draw.price import describe_price

        text = describe_price(parts, device=device, dtype=dtype)
    else:
        unknown = dict.fromkeys(each.counts.unknown for each in parts if each.counts.unknown)
        text = "; ".join(unknown) or "none, because all images are there"
    return f"time:           {text}"


def image_bytes(height: int, width: int) -> int:
    """At most what a PNG of noise and its records take: three bytes per pixel, one per row, and zlib's own."""
    return round(1.001 * height * (3 * width + 1)) + 1_000 + RECORD_BYTES


def _asked(suite: Suite, jobs: Sequence[Job]) -> str:
    if suite.grid is None:
        return f"{len(jobs[0].rows):,} images for each model"
    (styles, objects), seeds = suite.grid.axes, suite.grid.seeds
    cells = f"{len(styles)} styles x {len(objects)} objects x {len(seeds)} seeds"
    return f"{cells} = {len(styles) * len(objects) * len(seeds):,} images of the grid for each model"


def _recorded_guidance(out: Path, asked: float | None) -> float | None:
    """The guidance of rows without their own: what is asked for, or else what images in the folder were drawn with."""
    path = out / SETTINGS
    if asked is not None or not path.exists():
        return asked
    return json.loads(path.read_text(encoding="utf-8"))["cfg"]
