"""Which folder images go into: the one that is asked for or, if it holds images of other settings, one beside it.

The folder beside it is named by a hash of what decides the images, so that the same command, and every process of one
command, finds it again. The images of a folder are therefore always of one kind.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.draw import manifest
from eval.files import SETTINGS, hash_json
from eval.models import subject
from eval.models.subject import Subject
from eval.suite.rows import Row
from eval.suite.suite import Suite


if TYPE_CHECKING:
    import torch


class Drawing(NamedTuple):
    """The images of one model under test."""

    below: str  # their folder in the output
    subject: Subject
    rows: Sequence[Row]


def place(out: Path, differs: Callable[[Path], str], decides: Callable[[], Any]) -> Path:
    """The folder that images go into; if it is not ``out``, the log says so.

    Args:
        out: The folder that is asked for.
        differs: Says in words which other images a folder holds; empty if it holds none.
        decides: Gives what decides the images, for JSON; without the seeds, because seeds may be added later.

    Raises:
        ValueError: The folder beside ``out`` holds other images, too.
    """
    difference = differs(out)
    if not difference:
        return out
    plain = out if out.name not in ("", "..") else out.resolve()
    beside = plain.with_name(f"{plain.name}-{hash_json(decides())[:8]}")
    if other := differs(beside):
        raise ValueError(f"{out} holds {difference}, and {beside} holds {other}: choose an empty folder.")
    from eval.draw.generate import process_state

    if process_state().is_main_process:
        logging.getLogger(__name__).warning("%s holds %s, so these go into %s.", out, difference, beside)
    return beside


def holds_images(out: Path, drawings: Sequence[Drawing]) -> bool:
    """Whether a folder holds images of one of the models, so that ``place_evaluation`` has to load a model."""
    return any((out / drawing.below / SETTINGS).exists() for drawing in drawings)


def place_evaluation(
    out: Path, drawings: Sequence[Drawing], suite: Suite, *, device: str, dtype: "torch.dtype"
) -> Path:
    """The folder of an evaluation; a model is loaded only if its folder holds images.

    Args:
        out: The folder that is asked for.
        drawings: The models under test; images of bases lie in folders that are named by what they show.
        suite: For the settings of the sampler; the batch size decides nothing.
        device: Where models are loaded.
        dtype: Of the models.

    Raises:
        ValueError: The folder beside ``out`` holds other images, too.
    """

    @cache
    def settings(index: int) -> Mapping[str, Any]:
        from eval.draw.generate import image_settings
        from eval.models.fingerprint import fingerprint

        pipe = subject.open_erased(drawings[index].subject, device=device, dtype=dtype)
        return image_settings(pipe, suite.sampler, fingerprint=fingerprint(pipe))

    def differs(output: Path) -> str:
        for index, drawing in enumerate(drawings):
            folder = output / drawing.below
            if (folder / SETTINGS).exists():
                words = manifest.changed_settings(folder, settings(index))
                words = words or manifest.changed_prompt(folder, drawing.rows, settings(index)["cfg"])
                if words:
                    return f"in {drawing.below} images {words}"
        return ""

    def decides() -> list[Any]:
        prompts = [
            sorted({(row.prompt_id, row.prompt, str(row.guidance_scale)) for row in drawing.rows})
            for drawing in drawings
        ]
        return [[drawing.below, settings(index), prompts[index]] for index, drawing in enumerate(drawings)]

    return place(out, differs, decides)
