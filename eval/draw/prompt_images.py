"""The images of a prompt set: drawn, resumed after a kill, shared by processes."""

import time
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline

from erase.artifact import folder as artifact
from erase.artifact.output import NO_ROOM, check_room
from erase.model import base_model
from eval.draw import manifest
from eval.draw.generate import generate, image_settings, process_state
from eval.draw.placement import place
from eval.draw.plan import image_bytes
from eval.draw.prompt_set import Config, PromptSet, read_set
from eval.models import clock, text_to_image
from eval.models.fingerprint import Fingerprint, fingerprint


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What drawing a prompt set took, in this process.

    Attributes:
        out: The folder of the images.
        images: How many were asked for, all of which are there.
        new: How many were drawn, by all processes.
        seconds: Without loading the model.
        outside: Share of these seconds outside the forwards of denoiser and VAE.
        loading: Seconds.
    """

    out: Path
    images: int
    new: int
    seconds: float
    outside: float
    loading: float

    @property
    def line(self) -> str:
        """What it took, in one line."""
        return (
            f"{self.images:,} images, {self.new:,} of them new, in {self.seconds:.1f} s, {self.outside:.1%} "
            f"of it outside denoiser and VAE; loading took {self.loading:.1f} s"
        )


def run(config: Config, *, progress: bool = True) -> Generation | None:
    """Draw what the folder does not hold yet.

    Args:
        config: What to draw, and how.
        progress: Show a progress bar.

    Returns:
        What it took, once all processes are done; None in all of them but the first.

    Raises:
        FileNotFoundError: There is no such model or prompt file.
        OSError: The disk is full; the images that were drawn stay.
        ValueError: A setting is wrong, or the folder holds something else.
        KeyboardInterrupt: It says which images stay.
    """
    state = process_state()  # first: with several GPUs, "cuda" is this process' own from here on
    prompts = read_set(config)
    prompts.differs(config.out, {})  # refuses a folder of something else before loading
    started = time.perf_counter()
    pipe = open_model(config)
    mark = fingerprint(pipe)
    out = place_images(config, prompts, pipe, mark)
    loading = time.perf_counter() - started
    before = _count_records(out)
    state.wait_for_everyone()  # nobody draws before all have counted
    _check_room(config, prompts, pipe, out)
    with clock.measure(clock.drawing_modules(pipe)) as measured:
        _draw(config, prompts, pipe, mark, out, progress=progress)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    return Generation(
        out=out,
        images=len(prompts.rows),
        new=_count_records(out) - before,
        seconds=measured.wall,
        outside=measured.outside,
        loading=loading,
    )


def open_model(config: Config) -> DiffusionPipeline:
    """Load the model of a prompt set.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It draws from more than a text, or the device or the dtype is unknown.
    """
    device, dtype = base_model.pick_device(config.device), base_model.pick_dtype(config.dtype)
    if (Path(config.model) / artifact.CARD).is_file():
        return artifact.load(Path(config.model), device=device, dtype=dtype)
    folder = base_model.resolve(config.model)
    text_to_image.find_class(base_model.check_folder(folder)["_class_name"])
    return base_model.load_folder(folder, device=device, dtype=dtype)


def place_images(config: Config, prompts: PromptSet, pipe: DiffusionPipeline, mark: Fingerprint) -> Path:
    """The folder of the images: the one that is asked for, or one beside it; see ``eval.draw.placement``."""
    settings = image_settings(pipe, config.sampler, fingerprint=mark)
    return place(
        config.out,
        lambda folder: prompts.differs(folder, settings),
        lambda: [settings, prompts.content],
    )


def _draw(
    config: Config, prompts: PromptSet, pipe: DiffusionPipeline, mark: Fingerprint, out: Path, *, progress: bool
) -> None:
    try:
        prompts.write(out)
        generate(pipe, prompts.rows, out, config.sampler, fingerprint=mark, progress=progress)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(
            f"The images do not fit in {out} (the disk is full): free some space and give the same command "
            "again, which goes on from there."
        ) from error
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"Interrupted; {out} keeps what was drawn, and the same command goes on from there."
        ) from interrupt


def _check_room(config: Config, prompts: PromptSet, pipe: DiffusionPipeline, out: Path) -> None:
    records = manifest.read(out)
    missing = sum(row.key not in records for row in prompts.rows)
    side = text_to_image.own_side(pipe) or 0  # for a class of unknown size, a full disk shows when it is full
    check_room(out, missing * image_bytes(config.sampler.height or side, config.sampler.width or side))


def _count_records(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("manifest-*.jsonl"))
