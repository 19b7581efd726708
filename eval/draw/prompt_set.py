"""Prompt sets in batch: the images of a prompt file, planned beforehand, resumed after a kill, shared by processes.

The folder of the images holds ``prompts.json`` (what was asked for), ``settings.json`` (what decides how it looks),
``manifest-<rank>.jsonl`` (one record per image, of each process), ``manifest.jsonl`` (all of them) and ``images``.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from erase.artifact import folder as artifact
from erase.artifact.output import NO_ROOM, check_room
from erase.model import base_model
from erase.plan import duration, time_forward
from erase.prompts import PromptRow, find_data, read_prompts
from eval.draw import manifest
from eval.draw.generate import generate, image_settings, process_state
from eval.draw.placement import place
from eval.files import write_json
from eval.models import clock, text_to_image
from eval.suite.rows import Row


PROMPTS = "prompts.json"
SEED = 0  # of prompts that come without one
RECORD_BYTES = 2_000  # of a line in the manifest, twice
LATER = "unknown until the model is on this machine"
LARGE_BATCH_SECONDS = 10.0  # a plan does not try out a batch that takes longer


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to draw, and how.

    Attributes:
        model: An artefact of either form, a diffusers folder, a hub id, or ``canvas``.
        prompts: A prompt file, or a shipped one; see ``erase.prompts.read_prompts``.
        out: The folder of the images; a stopped generation in it is continued, and images of other prompts or settings
            in it stay alone: these then go into a folder beside it.
        seeds: For every prompt, in the place of the file's own.
        guidance_scale: For every prompt, in the place of the file's own; where both are missing, the default of the
            pipeline's call.
        num_inference_steps: Denoising steps.
        batch_size: Images per forward.
        negative_prompt: For all prompts.
        height: In pixels; the model's own size if not given.
        width: In pixels; the model's own size if not given.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        header: Whether a CSV of prompts begins with the names of its columns.
        skip_empty: Leave out rows without a prompt, as one of I2P's is, in the place of refusing the file.
    """

    model: str
    prompts: str
    out: Path
    seeds: Sequence[int] | None = None
    guidance_scale: float | None = None
    num_inference_steps: int = 50
    batch_size: int = 32
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    header: bool = True
    skip_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing can be drawn."""
        for name in ("num_inference_steps", "batch_size", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"The {name} is {value}, but a whole number from 1 is expected: correct it.")
        for name in ("height", "width"):
            if (getattr(self, name) or 8) % 8:  # what diffusers asks for
                raise ValueError(f"The {name} is {getattr(self, name)}, but a multiple of 8 is expected: correct it.")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < math.inf:
            raise ValueError(
                f"The guidance_scale is {self.guidance_scale}, but a number from 0 is expected: correct it."
            )


class Plan(NamedTuple):
    """What a generation would do; ``None`` is what is not known, of which ``unknown`` says why."""

    images: int
    done: int
    unet_forwards: int | None  # in samples, of the images that are missing
    is_guided_twice: bool  # UnGuide calls the UNet again for samples that show the target
    disk_bytes: int | None
    seconds: float | None
    device: str
    unknown: str = "not estimated for this model family"
    folder: str = ""  # of the images, where that is part of the plan


class Generation(NamedTuple):
    """What a generation took, in this process."""

    out: Path  # the folder of the images
    images: int  # asked for, and there
    drawn: int  # by all processes
    seconds: float  # without loading the model
    outside: float  # share of these seconds outside the forwards of denoiser and VAE
    loading: float  # seconds


def read_rows(config: Config) -> tuple[list[PromptRow], list[Row]]:
    """The prompts of the file, and one row for each prompt and seed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed file, or an id that cannot be a file name.
    """
    path = find_data(config.prompts, within="prompts", suffix=".csv")
    prompts = read_prompts(path, header=config.header, skip_empty=config.skip_empty)
    return prompts, [row for prompt in prompts for row in _rows_of(prompt, config)]


def make_plan(config: Config) -> Plan:
    """Work out what ``run`` would do; downloads and writes nothing.

    It loads the weights only where ``out`` holds images, to tell whether they are of the same ones.

    Raises:
        FileNotFoundError: no such model, or no such prompt file.
        ValueError: what ``run`` would refuse, as far as it shows without the weights.
    """
    prompts, rows = read_rows(config)
    known = {"steps": config.num_inference_steps, "dtype": config.dtype, "negative_prompt": config.negative_prompt}
    differing = _differs(config.out, prompts, config, known)
    if (config.out / PROMPTS).exists() and _find_model(config.model) is not None:
        config = replace(config, out=_place(prompts, config, _open(replace(config, device="cpu"))))
    elif differing:
        later = Plan(len(rows), 0, None, False, None, None, base_model.pick_device(config.device), LATER)
        return later._replace(folder=f"one beside {config.out}, which holds {differing}")
    return plan_rows(config, rows)._replace(folder=str(config.out))


def plan_rows(config: Config, rows: Sequence[Row]) -> Plan:
    """Work out what drawing these rows with the model and the settings of ``config`` would take.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model that draws from more than a text, or an unknown device or precision.
    """
    device = base_model.pick_device(config.device)
    base_model.pick_dtype(config.dtype)
    folder = _find_model(config.model)
    if folder is None:
        done = len(rows) - len(_missing(config, rows, _drawn_guidance(config)))
        return Plan(len(rows), done, None, False, None, None, device, LATER)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    is_own = isinstance(index["_class_name"], list)  # a class of ours, all of which are Stable Diffusion
    cls = StableDiffusionPipeline if is_own else text_to_image.find_class(index["_class_name"])
    guidance = text_to_image.saved_guidance(cls, folder, config.guidance_scale)
    todo = _missing(config, rows, guidance)
    done = len(rows) - len(todo)
    if not text_to_image.is_stable_diffusion(cls):  # forwards for a sample, latents and sizes are each class' own
        disk = len(todo) * _image_bytes(config.height, config.width) if config.height and config.width else None
        return Plan(len(rows), done, None, False, disk, None, device, f"not known beforehand for a {cls.__name__}")
    scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(config.num_inference_steps)
    calls = len(scheduler.timesteps)
    scales = [guidance if row.guidance_scale is None else row.guidance_scale for row in todo]
    forwards = calls * sum(2 if (scale or 0.0) > 1 else 1 for scale in scales)
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)  # that the model draws by itself
    height, width = config.height or side, config.width or side
    seconds = _seconds_per_sample(folder, config, device, most=2 * len(todo)) if todo else 0.0
    return Plan(
        images=len(rows),
        done=done,
        unet_forwards=forwards,
        is_guided_twice=is_own,
        disk_bytes=len(todo) * _image_bytes(height, width),
        seconds=None if seconds is None else seconds * forwards * height * width / side**2,
        device=device,
    )


def describe(plan: Plan) -> str:
    """The plan in lines for a terminal."""
    about = plan.unknown
    if plan.seconds is not None:
        about = f"about {duration(plan.seconds)} on {plan.device} in one process, by the UNet alone"
    twice = ", and up to as many again for images that show the target" if plan.is_guided_twice else ""
    is_unet = plan.unet_forwards is not None or plan.unknown == LATER
    lines = {"folder": plan.folder} if plan.folder else {}
    lines |= {
        "images": f"{plan.images:,}, of which {plan.done:,} are there",
        "UNet forwards" if is_unet else "forwards": plan.unknown
        if plan.unet_forwards is None
        else f"{plan.unet_forwards:,} samples{twice}",
        "disk": plan.unknown if plan.disk_bytes is None else f"at most {plan.disk_bytes / 1e6:,.3g} MB",
        "time": about,
    }
    return "\n".join(f"{name + ':':16}{text}" for name, text in lines.items())


def run(config: Config, *, progress: bool = True) -> Generation | None:
    """Draw what the folder does not hold yet.

    Args:
        config: What to draw, and how.
        progress: Show a progress bar.

    Returns:
        What it took, once all processes are done; None in all of them but the first.

    Raises:
        FileNotFoundError: no such model, or no such prompt file.
        OSError: the disk is full; what was drawn is kept.
        ValueError: a wrong setting, or a folder that holds something else.
        KeyboardInterrupt: says what is kept.
    """
    state = process_state()  # first: with several GPUs, "cuda" is this process' own from here on
    prompts, rows = read_rows(config)
    _differs(config.out, prompts, config, {})  # refuses a folder of something else before loading
    started = time.perf_counter()
    pipe = _open(config)
    config = replace(config, out=_place(prompts, config, pipe))
    loading = time.perf_counter() - started
    before = _count_records(config.out)
    state.wait_for_everyone()  # nobody draws before all have counted
    known = manifest.read(config.out)
    missing = sum(row.key not in known for row in rows)
    side = text_to_image.own_side(pipe) or 0  # where it is not known, a full disk shows when it is full
    check_room(config.out, missing * _image_bytes(config.height or side, config.width or side))
    try:
        if not (config.out / PROMPTS).exists():
            config.out.mkdir(parents=True, exist_ok=True)
            write_json(config.out / PROMPTS, _content(prompts, config), indent=1)
        with clock.measure(clock.drawing_modules(pipe)) as measured:
            generate(
                pipe,
                rows,
                config.out,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                batch_size=config.batch_size,
                negative_prompt=config.negative_prompt,
                height=config.height,
                width=config.width,
                progress=progress,
            )
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(
            f"The images do not fit in {config.out} (the disk is full): free some space and give the same command "
            "again, which goes on from there."
        ) from error
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"Interrupted; {config.out} keeps what was drawn, and the same command goes on from there."
        ) from interrupt
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    drawn = _count_records(config.out) - before
    return Generation(config.out, len(rows), drawn, measured.wall, measured.outside, loading)


def summarize(made: Generation) -> str:
    """What a generation took, in one line."""
    return (
        f"{made.images:,} images, {made.drawn:,} of them new, in {made.seconds:.1f} s, {made.outside:.1%} "
        f"of it outside denoiser and VAE; loading took {made.loading:.1f} s"
    )


def _rows_of(prompt: PromptRow, config: Config) -> list[Row]:
    known = {name: prompt.columns.get(name, "") for name in ("role", "family", "style", "object", "language")}
    own = [SEED if prompt.seed is None else prompt.seed]
    return [
        Row(
            prompt_id=prompt.id,
            prompt=prompt.prompt,
            seed=seed,
            guidance_scale=prompt.guidance_scale if config.guidance_scale is None else None,
            columns={name: value for name, value in prompt.columns.items() if name not in known},
            **known,
        )
        for seed in (own if config.seeds is None else config.seeds)
    ]


def _content(prompts: Sequence[PromptRow], config: Config) -> list[dict[str, Any]]:
    """What ``prompts.json`` holds: the prompts with the guidance that is asked for."""
    given = {} if config.guidance_scale is None else {"guidance_scale": config.guidance_scale}
    return [asdict(prompt) | given for prompt in prompts]


def _place(prompts: Sequence[PromptRow], config: Config, pipe: DiffusionPipeline) -> Path:
    """The folder of these images: the one that is named, or one beside it; see ``eval.draw.placement``."""
    settings = image_settings(
        pipe,
        config.num_inference_steps,
        config.guidance_scale,
        negative_prompt=config.negative_prompt,
        height=config.height,
        width=config.width,
    )
    return place(
        config.out,
        lambda folder: _differs(folder, prompts, config, settings),
        lambda: [settings, _content(prompts, config)],
    )


def _differs(out: Path, prompts: Sequence[PromptRow], config: Config, settings: dict[str, Any]) -> str:
    """Which images of other prompts or settings a folder holds, in words; a folder of something else is refused."""
    path = out / PROMPTS
    if out.exists() and not out.is_dir():
        raise ValueError(f"The output {out} exists and is not a folder: choose another one.")
    if not path.exists():
        if out.exists() and any(not entry.name.endswith(".partial") for entry in out.iterdir()):
            raise ValueError(f"{out} holds something other than the images of a prompt set: choose an empty folder.")
        return ""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable ({error}): choose an empty folder.") from error
    now = _content(prompts, config)
    if before != now:
        told = f"{len(before)} prompts instead of {len(now)}"
        for old, new in zip(before, now, strict=False):
            changed = [name for name in new if old.get(name) != new[name]]
            if changed:
                told = f"the {changed[0]} {old.get(changed[0])!r} instead of {new[changed[0]]!r} in row {new['id']!r}"
                break
        return f"images of other prompts, with {told}"
    told = manifest.changed_settings(out, settings)
    return f"images {told}" if told else ""


def _drawn_guidance(config: Config) -> float | None:
    """The guidance of rows that do not bring their own, by what was drawn, where no model says what its default is."""
    path = config.out / manifest.SETTINGS
    if config.guidance_scale is not None or not path.exists():
        return config.guidance_scale
    return json.loads(path.read_text(encoding="utf-8"))["cfg"]


def _missing(config: Config, rows: Sequence[Row], guidance: float | None) -> list[Row]:
    records = manifest.read(config.out)
    return [row for row in rows if not manifest.is_done(row, records.get(row.key), config.out, guidance)]


def _count_records(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("manifest-*.jsonl"))


def _open(config: Config) -> DiffusionPipeline:
    device, dtype = base_model.pick_device(config.device), base_model.pick_dtype(config.dtype)
    if (Path(config.model) / artifact.CARD).is_file():
        return artifact.load(Path(config.model), device=device, dtype=dtype)
    folder = base_model.resolve(config.model)
    text_to_image.find_class(base_model.check_folder(folder)["_class_name"])
    return base_model.load_folder(folder, device=device, dtype=dtype)


def _find_model(model: str) -> Path | None:
    """The folder with the parts of the model; of a delta, that of its base. None if the hub has it and we do not."""
    folder = Path(model)
    if (folder / artifact.CARD).is_file():
        card = artifact.read_card(folder)
        return folder if card["form"] == "pipeline" else base_model.resolve(card["base"]["id"], local_only=True)
    try:
        return base_model.resolve(model, local_only=True)
    except FileNotFoundError:
        if folder.exists() or base_model.HUB_ID.fullmatch(model) is None:
            raise
        return None


def _seconds_per_sample(folder: Path, config: Config, device: str, *, most: int) -> float | None:
    """The time of a UNet forward for one sample: measured in a batch, unless that would take long."""
    single = time_forward(folder, device=device, dtype=config.dtype)
    samples = min(2 * config.batch_size, most)
    if single is None or single * samples > LARGE_BATCH_SECONDS:
        return single
    batched = time_forward(folder, device=device, dtype=config.dtype, samples=samples)
    return None if batched is None else batched / samples


def _image_bytes(height: int, width: int) -> int:
    """At most what a PNG of noise and its records take: three bytes for a pixel, one for a row, and zlib's own."""
    return round(1.001 * height * (3 * width + 1)) + 1_000 + RECORD_BYTES
