"""Generate the images of evaluation rows: batched, resumable, sharded by rank, one seed per row.

What a row shows depends on its own prompt and seed only, not on the batch size, the order or the number of ranks: the
initial latents are drawn per row on the CPU, and no state runs from row to row. What is left is the rounding of a
batch, which is at most one level of 255 in a pixel.

Stable Diffusion gets embeddings and latents, so that each prompt is encoded once; every other pipeline gets the text
and one generator per row, which is a user's own call.
"""

import datetime
import hashlib
import inspect
import io
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

from erase.model.diffusion import encode_with_gradient
from eval.draw import manifest
from eval.models import text_to_image
from eval.models.fingerprint import fingerprint, hash_tensor
from eval.suite.rows import Row


KNOWN_PROMPTS = 256  # encoded prompts that are kept: one takes 0.2 MB in SD 1.x and 0.6 MB in SDXL
PATIENCE = datetime.timedelta(days=7)  # ranks that finish early wait for the last one; by default for minutes


def generate(
    source: Path | DiffusionPipeline,
    rows: Sequence[Row],
    out: Path,
    *,
    num_inference_steps: int,
    guidance_scale: float | None,
    batch_size: int = 32,
    negative_prompt: str = "",
    prefixes: Mapping[str, torch.Tensor] | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
    label: str = "generate",
    progress: bool = True,
    rank: int | None = None,
    world: int | None = None,
) -> Path:
    """Generate the rows that ``out`` does not hold yet.

    Args:
        source: a diffusers folder (loaded on the CPU with ``dtype``) or a loaded pipeline, used where it is.
        rows: what to generate.
        out: folder for ``images/*.png`` and the manifest.
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance of the rows that do not bring their own; 1 or less turns it off, and
            None is the default of the pipeline's call.
        batch_size: rows per forward, which have one guidance.
        negative_prompt: for all rows; empty means the pipeline's own unconditional prompt.
        prefixes: token embeddings (1, k, D) in front of the prompts of some rows, by the key of the row; for Stable
            Diffusion 1.x and 2.x. All rows of such a call go to the pipeline as embeddings.
        height: in pixels; the model's own size if not given.
        width: in pixels; the model's own size if not given.
        dtype: of a source that is a folder.
        label: shown at the progress bar.
        progress: show a progress bar on the first rank.
        rank: which share of the rows to do; taken from accelerate if not given.
        world: number of shares; taken from accelerate if not given.

    Returns:
        The path of ``manifest.jsonl``, which holds the records that all ranks have written so far.

    Raises:
        ValueError: two rows with one name, a pipeline that draws from more than a text, a setting that it cannot take,
            or ``out`` holds images made with another model or other settings.
    """
    if rank is None or world is None:
        rank, world = process_state().process_index, process_state().num_processes
    if len({row.key for row in rows}) < len(rows):
        twice = sorted({row.key for row in rows if sum(row.key == other.key for other in rows) > 1})
        raise ValueError(f"The rows {', '.join(twice[:3])} occur twice; every prompt id and seed may occur once.")
    pipe = source if isinstance(source, DiffusionPipeline) else DiffusionPipeline.from_pretrained(source, dtype=dtype)
    settings = image_settings(
        pipe, num_inference_steps, guidance_scale, negative_prompt=negative_prompt, height=height, width=width
    )
    for scale in {row.guidance_scale for row in rows}:
        text_to_image.check_settings(pipe, guidance_scale=scale, negative_prompt="")
    manifest.write_settings(out, settings)
    (out / "images").mkdir(exist_ok=True)
    records = manifest.read(out)
    todo = [row for row in rows[rank::world] if not manifest.is_done(row, records.get(row.key), out, settings["cfg"])]
    encode = _Encoder(pipe, negative_prompt, prefixes or {})
    with _own_bar_off(pipe), tqdm(total=len(todo), desc=label, unit="image", disable=not progress or rank > 0) as bar:
        for batch, scale in _batches(todo, batch_size, settings["cfg"]):
            for record, image in _draw(pipe, batch, settings | {"cfg": scale}, encode):
                # the record goes first: whatever the moment of a kill, an image on disk is known and not made again
                manifest.append(manifest.rank_file(out, rank), [record])
                _write(image, out / record["image_path"])
            bar.update(len(batch))
    return manifest.merge(out)


def process_state() -> PartialState:
    """Which process this is, and of how many; without a GPU, accelerate has to be told so to see more than one."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def image_settings(
    pipe: DiffusionPipeline,
    num_inference_steps: int,
    guidance_scale: float | None,
    *,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
) -> dict[str, Any]:
    """All that decides what a row shows beside its prompt and seed; two folders with equal settings are comparable.

    Raises:
        ValueError: a pipeline that draws from more than a text, or a setting that it cannot take.
    """
    text_to_image.check_class(type(pipe))
    text_to_image.check_settings(pipe, guidance_scale=guidance_scale, negative_prompt=negative_prompt)
    side = text_to_image.own_side(pipe)
    return {
        "model_hash": fingerprint(pipe).model,
        "sampler": type(pipe.scheduler).__name__,
        "steps": num_inference_steps,
        "cfg": text_to_image.find_guidance(pipe, guidance_scale),
        "negative_prompt": negative_prompt,
        "height": height or side,
        "width": width or side,
        "dtype": str(text_to_image.drawing_dtype(pipe)).removeprefix("torch."),
    }


def initial_latents(pipe: DiffusionPipeline, generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """The noise a row starts from, before the scheduler scales it; drawn in float32 on the CPU, whatever the device."""
    factor = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, height // factor, width // factor)
    return torch.randn(shape, generator=generator)  # (1, 4, H/8, W/8)


def _batches(
    rows: Sequence[Row], batch_size: int, guidance_scale: float | None
) -> Iterator[tuple[list[Row], float | None]]:
    """Yield rows of one guidance and that guidance; rows keep their order within it."""
    groups: dict[float | None, list[Row]] = {}
    for row in rows:
        scale = guidance_scale if row.guidance_scale is None else row.guidance_scale
        groups.setdefault(None if scale is None else float(scale), []).append(row)
    for scale, group in groups.items():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size], scale


def _draw(
    pipe: DiffusionPipeline, batch: list[Row], settings: dict[str, Any], encode: "_Encoder"
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each row's record and its PNG."""
    started = time.perf_counter()
    generators = [torch.Generator("cpu").manual_seed(row.seed) for row in batch]
    given = {"height": settings["height"], "width": settings["width"], "guidance_scale": settings["cfg"]}
    latents: list[torch.Tensor] = []
    if text_to_image.draws_like_stable_diffusion(pipe):
        latents = [initial_latents(pipe, each, settings["height"], settings["width"]) for each in generators]
        given["latents"] = torch.cat(latents).to(pipe.device, pipe.unet.dtype)
    with torch.no_grad(), _watch(pipe) as seen:
        output = pipe(
            **encode(batch, is_guided=(settings["cfg"] or 0.0) > 1),
            generator=generators,  # what a stochastic sampler draws after the latents is the row's own, too
            num_inference_steps=settings["steps"],
            **{name: value for name, value in given.items() if value is not None},
        )
    # None where the pipeline has no safety checker; SDXL's output does not have the field
    flagged = output.get("nsfw_content_detected") or [False] * len(batch)
    spent = {
        "wall_s": round((time.perf_counter() - started) / len(batch), 4),
        "unet_forwards": round(sum(seen.rows) / len(batch), 3),  # of any denoiser, in samples, the mean of the batch
        "peak_mem": torch.cuda.max_memory_allocated(pipe.device) if pipe.device.type == "cuda" else None,
    }
    starts = latents or seen.starts(len(batch))
    for row, image, noise, flag in zip(batch, output.images, starts, flagged, strict=True):
        own = {"width": image.width, "height": image.height}
        if wrong := [name for name, side in own.items() if settings[name] not in (None, side)]:
            raise ValueError(
                f"The {wrong[0]} is {settings[wrong[0]]}, but this {type(pipe).__name__} draws images of "
                f"{image.width} x {image.height} pixels when asked for it: give a size that it can draw."
            )
        png = _encode_png(image)
        facts = {"latent_hash": None if noise is None else hash_tensor(noise), "flagged": bool(flag), **settings}
        yield _describe(row, png) | facts | own | spent, png


def _describe(row: Row, png: bytes) -> dict[str, Any]:
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
        "image_sha256": hashlib.sha256(png).hexdigest(),
    }


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write(content: bytes, path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    try:
        partial.replace(path)
    except FileNotFoundError:  # what is left of a killed launcher drew the same row at the same time
        if not path.exists():
            raise


class _Seen:
    """The rows of every call of a denoiser, and what the first call was given to start from."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.first: Sequence[torch.Tensor] | torch.Tensor | None = None

    def starts(self, count: int) -> list[torch.Tensor] | list[None]:
        """What each row of a batch started from, guided samples being copies; None where the call does not show it."""
        if self.first is None or len(self.first) % count:
            return [None] * count
        return [self.first[index] for index in range(count)]


@contextmanager
def _watch(pipe: DiffusionPipeline) -> Iterator[_Seen]:
    """Watch the calls of all denoisers in this block, whoever makes them."""
    seen = _Seen()

    def before(module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if seen.first is None:
            seen.first = next(iter((*inputs, *named.values())))  # diffusers' models take the latents first

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 - of any class
        seen.rows.append(len(output if torch.is_tensor(output) else output[0]))  # a Wuerstchen prior gives a tensor

    hooks = []
    for part in text_to_image.denoisers(pipe).values():
        hooks += [part.register_forward_pre_hook(before, with_kwargs=True), part.register_forward_hook(after)]
    try:
        yield seen
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


class _Encoder:
    """Rows -> arguments of the pipeline's call, each distinct prompt encoded once while it is recent.

    A pipeline class that is not Stable Diffusion's own gets the text itself: what it does with a prompt (a block list,
    a guider, another encoder) is part of the system under test, and embeddings would pass it by.
    """

    def __init__(self, pipe: DiffusionPipeline, negative_prompt: str, prefixes: Mapping[str, torch.Tensor]) -> None:
        self.pipe = pipe
        self.prefixes = prefixes
        self.negative_prompt = negative_prompt
        is_stock = type(pipe).__module__.startswith("diffusers.pipelines.")
        self.takes_text = not prefixes and not (is_stock and text_to_image.is_stable_diffusion(type(pipe)))
        self.pooled = "pooled_prompt_embeds" in inspect.signature(type(pipe).__call__).parameters
        self.known: dict[str, tuple[torch.Tensor, ...]] = {}
        self.negative: tuple[torch.Tensor, ...] = ()

    def __call__(self, rows: list[Row], *, is_guided: bool) -> dict[str, Any]:
        prompts = [row.prompt for row in rows]
        if self.takes_text:
            negative = self._negative_texts(len(prompts))
            return {"prompt": prompts} if negative is None else {"prompt": prompts, "negative_prompt": negative}
        while len(self.known) > KNOWN_PROMPTS:
            del self.known[next(iter(self.known))]
        if is_guided and not self.negative:
            self._encode(prompts[:1], with_negative=True)  # by itself, so that the unconditional prompt is encoded once
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        if missing:
            self._encode(missing)
        encoded = [self._with_prefix(row) for row in rows]
        names = ("prompt_embeds", "pooled_prompt_embeds")[: 1 + self.pooled]
        arguments = {name: torch.cat([each[index] for each in encoded]) for index, name in enumerate(names)}
        if is_guided:
            for name, tensor in zip(names, self.negative, strict=True):
                arguments[f"negative_{name}"] = tensor.expand(len(rows), *tensor.shape[1:])
        return arguments

    def _negative_texts(self, count: int) -> list[str] | None:
        """One for each prompt, as diffusers wants them beside a list of prompts."""
        return [self.negative_prompt] * count if self.negative_prompt else None

    def _with_prefix(self, row: Row) -> tuple[torch.Tensor, ...]:
        if row.key not in self.prefixes:
            return self.known[row.prompt]
        prefix = self.prefixes[row.key].to(self.pipe.device)
        with torch.no_grad():
            return (encode_with_gradient(self.pipe, [row.prompt], prefix=prefix),)

    def _encode(self, prompts: list[str], *, with_negative: bool = False) -> None:
        with torch.no_grad():
            encoded = self.pipe.encode_prompt(
                prompt=prompts,
                device=self.pipe.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=with_negative,
                negative_prompt=self._negative_texts(len(prompts)),
            )
        if with_negative:
            self.negative = encoded[1::2]
        for index, prompt in enumerate(prompts):
            self.known[prompt] = tuple(tensor[index : index + 1] for tensor in encoded[0::2])
