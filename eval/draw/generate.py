"""Draw the images of rows: batched, resumable, shared by processes, one seed per row.

What a row shows depends on its own prompt and seed only, not on the batch size, the order or the number of processes:
the initial latents are drawn per row on the CPU, and no state runs from row to row. Only the rounding of a batch is
left, which changes a pixel by at most one level of 255.

Stable Diffusion gets embeddings and latents, so that each prompt is encoded once. Every other pipeline gets the text
and one generator per row, which is the call that a user makes.
"""

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from eval.draw import manifest
from eval.draw.batches import Batch, split
from eval.draw.encoder import Encoder
from eval.draw.writer import ImageWriter
from eval.models import fingerprint as fingerprints
from eval.models import text_to_image
from eval.models.fingerprint import Fingerprint, hash_tensor
from eval.suite.rows import Row
from eval.suite.suite import Sampler


PATIENCE = datetime.timedelta(days=7)  # processes that finish early wait for the last one; by default for minutes


def generate(
    source: Path | DiffusionPipeline,
    rows: Sequence[Row],
    out: Path,
    sampler: Sampler,
    *,
    fingerprint: Fingerprint | None = None,
    prefixes: Mapping[str, torch.Tensor] | None = None,
    label: str = "generate",
    progress: bool = True,
) -> Path:
    """Draw the rows that ``out`` does not hold yet; each process draws its share.

    Args:
        source: A loaded pipeline, used where it is, or a diffusers folder, loaded on the CPU in float32.
        rows: What to draw.
        out: Folder for ``images/*.png`` and the manifest.
        sampler: How to draw.
        fingerprint: Of the pipeline; if None, the weights are hashed here.
        prefixes: Key of a row -> token embeddings (1, k, D) in front of its prompt; for Stable Diffusion 1.x and 2.x.
        label: Shown at the progress bar.
        progress: Show a progress bar in the first process.

    Returns:
        The path of ``manifest.jsonl``, with the records of all processes so far.

    Raises:
        OSError: An image could not be written; what was written before stays.
        ValueError: Rows share a name, the pipeline cannot take a setting, or ``out`` holds images of other settings.
    """
    state = process_state()
    pipe = _open(source)
    settings = image_settings(pipe, sampler, fingerprint=fingerprint or fingerprints.fingerprint(pipe))
    _check_rows(pipe, rows)
    manifest.write_settings(out, settings)
    (out / "images").mkdir(exist_ok=True)
    todo = manifest.missing(out, rows[state.process_index :: state.num_processes], settings["cfg"])
    encode = Encoder(pipe, sampler.negative_prompt, prefixes or {})
    bar = tqdm(total=len(todo), desc=label, unit="image", disable=not progress or state.process_index > 0)
    with _own_bar_off(pipe), bar, ImageWriter(out, manifest.rank_file(out, state.process_index)) as writer:
        for batch in split(todo, sampler.batch_size, settings["cfg"]):
            for image, record in _draw(pipe, batch, settings | {"cfg": batch.guidance_scale}, encode):
                writer.add(image, record)
            bar.update(len(batch.rows))
    return manifest.merge(out)


def process_state() -> PartialState:
    """Which process this is, and of how many; without a GPU, accelerate sees several processes only if it is told."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def image_settings(pipe: DiffusionPipeline, sampler: Sampler, *, fingerprint: Fingerprint) -> dict[str, Any]:
    """Everything beside prompt and seed that decides what a row shows; folders with equal settings can be compared.

    Args:
        pipe: The pipeline.
        sampler: How it draws; the batch size decides nothing.
        fingerprint: Of the pipeline.

    Raises:
        ValueError: The pipeline draws from more than a text, or cannot take a setting.
    """
    text_to_image.check_class(type(pipe))
    asked, negative_prompt = sampler.guidance_scale, sampler.negative_prompt
    text_to_image.check_settings(pipe, guidance_scale=asked, negative_prompt=negative_prompt)
    side = text_to_image.own_side(pipe)
    return {
        "model_hash": fingerprint.model,
        "sampler": type(pipe.scheduler).__name__,
        "steps": sampler.steps,
        "cfg": text_to_image.find_guidance(pipe, asked),
        "negative_prompt": negative_prompt,
        "height": sampler.height or side,
        "width": sampler.width or side,
        "dtype": str(text_to_image.drawing_dtype(pipe)).removeprefix("torch."),
    }


def initial_latents(pipe: DiffusionPipeline, generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """The noise a row starts from, before the scheduler scales it; drawn in float32 on the CPU, whatever the device."""
    factor = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, height // factor, width // factor)
    return torch.randn(shape, generator=generator)  # (1, 4, H/8, W/8)


def _open(source: Path | DiffusionPipeline) -> DiffusionPipeline:
    is_open = isinstance(source, DiffusionPipeline)
    return source if is_open else DiffusionPipeline.from_pretrained(source, dtype=torch.float32)


def _check_rows(pipe: DiffusionPipeline, rows: Sequence[Row]) -> None:
    for scale in {row.guidance_scale for row in rows}:
        text_to_image.check_settings(pipe, guidance_scale=scale, negative_prompt="")
    keys = [row.key for row in rows]
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"The rows {', '.join(twice[:3])} occur twice; every prompt id and seed may occur once.")


def _draw(
    pipe: DiffusionPipeline, batch: Batch, settings: Mapping[str, Any], encode: Encoder
) -> list[tuple[Image.Image, manifest.Record]]:
    """Draw one batch: each row's image and its record."""
    started, rows = time.perf_counter(), batch.rows
    generators = [torch.Generator("cpu").manual_seed(row.seed) for row in rows]
    asked = {"height": settings["height"], "width": settings["width"], "guidance_scale": settings["cfg"]}
    latents: list[torch.Tensor] = []
    if text_to_image.draws_like_stable_diffusion(pipe):
        latents = [initial_latents(pipe, each, settings["height"], settings["width"]) for each in generators]
        asked["latents"] = torch.cat(latents).to(pipe.device, pipe.unet.dtype)
    with torch.no_grad(), _watch(pipe) as calls:
        output = pipe(
            **encode(rows, is_guided=(settings["cfg"] or 0.0) > 1),
            generator=generators,  # what a stochastic sampler draws after the latents is the row's own, too
            num_inference_steps=settings["steps"],
            **{name: value for name, value in asked.items() if value is not None},
        )
    # None where the pipeline has no safety checker; SDXL's output does not have the field
    flags = output.get("nsfw_content_detected") or [False] * len(rows)
    common = dict(settings) | {
        "width": output.images[0].width,
        "height": output.images[0].height,
        "wall_s": round((time.perf_counter() - started) / len(rows), 4),
        "unet_forwards": round(sum(calls.samples) / len(rows), 3),  # of any denoiser, in samples, the batch's mean
        "peak_mem": torch.cuda.max_memory_allocated(pipe.device) if pipe.device.type == "cuda" else None,
    }
    _check_size(pipe, output.images[0], settings)
    starts = latents or calls.starts(len(rows))
    own = [
        {"latent_hash": None if noise is None else hash_tensor(noise), "flagged": bool(flag)}
        for noise, flag in zip(starts, flags, strict=True)
    ]
    return [
        (image, _describe(row) | common | facts) for row, image, facts in zip(rows, output.images, own, strict=True)
    ]


def _check_size(pipe: DiffusionPipeline, image: Image.Image, settings: Mapping[str, Any]) -> None:
    for name, side in (("width", image.width), ("height", image.height)):
        if settings[name] not in (None, side):
            raise ValueError(
                f"The {name} is {settings[name]}, but this {type(pipe).__name__} draws images of "
                f"{image.width} x {image.height} pixels when asked for it: give a size that it can draw."
            )


def _describe(row: Row) -> manifest.Record:
    return {
        "key": row.key,
        "prompt_id": row.prompt_id,
        "prompt_text": row.prompt,
        "role": row.role,
        "family": row.family,
        "style": row.style,
        "object": row.object,
        "language": row.language,
        "attack": row.attack,
        "columns": row.columns,
        "seed": row.seed,
        "image_path": f"images/{row.key}.png",
    }


class _Calls:
    """The samples of every call of a denoiser, and what the first call starts from."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self.first: Sequence[torch.Tensor] | torch.Tensor | None = None

    def starts(self, count: int) -> list[torch.Tensor] | list[None]:
        """What each row of a batch starts from; guided samples are copies. None if the call does not show it."""
        if self.first is None or len(self.first) % count:
            return [None] * count
        return [self.first[index] for index in range(count)]


@contextmanager
def _watch(pipe: DiffusionPipeline) -> Iterator[_Calls]:
    """Watch the calls of all denoisers in this block, whoever makes them."""
    calls = _Calls()

    def before(module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if calls.first is None:
            calls.first = next(iter((*inputs, *named.values())))  # diffusers' models take the latents first

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 - of any class
        calls.samples.append(len(output if torch.is_tensor(output) else output[0]))  # a Wuerstchen prior gives a tensor

    hooks = []
    for part in text_to_image.denoisers(pipe).values():
        hooks += [part.register_forward_pre_hook(before, with_kwargs=True), part.register_forward_hook(after)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _own_bar_off(pipe: DiffusionPipeline) -> Iterator[None]:
    before = vars(pipe).get("_progress_bar_config")
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before
