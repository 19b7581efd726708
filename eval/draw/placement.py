"""Which folder images go into: the one that is named or, where it holds images of other settings, one beside it.

The one beside it is named by a hash of what decides the images, so that the same command, and every process of one
command, finds it again. The images of a folder are therefore always of one kind.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from eval.draw import manifest
from eval.draw.generate import image_settings, process_state
from eval.models import subject
from eval.models.fingerprint import hash_json
from eval.models.subject import Subject
from eval.suite.rows import Row


if TYPE_CHECKING:
    from eval.suite.config import SuiteConfig
    from eval.suite.prompt_config import PromptSuiteConfig


class Drawing(NamedTuple):
    """The images of one model under test."""

    below: str  # their folder in the output
    subject: Subject
    rows: Sequence[Row]


def place(out: Path, differs: Callable[[Path], str], decides: Callable[[], Any]) -> Path:
    """The folder that images go into; where it is not ``out``, the log says so.

    Args:
        out: What was named.
        differs: Says in words which other images a folder holds; empty where it holds none.
        decides: Gives what decides the images, for JSON; without the seeds, of which more may come.

    Raises:
        ValueError: the folder beside ``out`` holds other images, too.
    """
    held = differs(out)
    if not held:
        return out
    named = out if out.name not in ("", "..") else out.resolve()
    beside = named.with_name(f"{named.name}-{hash_json(decides())[:8]}")
    if also := differs(beside):
        raise ValueError(f"{out} holds {held}, and {beside} holds {also}: choose an empty folder.")
    if process_state().is_main_process:
        logging.getLogger(__name__).warning("%s holds %s, so these go into %s.", out, held, beside)
    return beside


def place_evaluation(
    out: Path,
    drawings: Sequence[Drawing],
    config: "SuiteConfig | PromptSuiteConfig",
    *,
    device: str,
    dtype: torch.dtype,
) -> Path:
    """The folder of an evaluation; a model is loaded only where its folder holds images.

    Args:
        out: What was named.
        drawings: The models under test; images of bases lie in folders that are named by what they show.
        config: The suite, for the settings of the sampler.
        device: Where models are loaded.
        dtype: Of the models.

    Raises:
        ValueError: the folder beside ``out`` holds other images, too.
    """

    @cache
    def settings(index: int) -> dict[str, Any]:
        pipe = subject.open_erased(drawings[index].subject, device=device, dtype=dtype)
        return image_settings(pipe, config.num_inference_steps, config.guidance_scale)

    def differs(output: Path) -> str:
        for index, drawing in enumerate(drawings):
            folder = output / drawing.below
            if (folder / manifest.SETTINGS).exists():
                told = manifest.changed_settings(folder, settings(index))
                told = told or manifest.changed_prompt(folder, drawing.rows, settings(index)["cfg"])
                if told:
                    return f"in {drawing.below} images {told}"
        return ""

    def decides() -> list[Any]:
        asked = [
            sorted({(row.prompt_id, row.prompt, str(row.guidance_scale)) for row in drawing.rows})
            for drawing in drawings
        ]
        return [[drawing.below, settings(index), asked[index]] for index, drawing in enumerate(drawings)]

    return place(out, differs, decides)
