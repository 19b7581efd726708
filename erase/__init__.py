"""Erase a concept from a text-to-image diffusion model, keep a pipeline that plain diffusers loads, and measure it.

Nothing heavy is imported before it is used.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from erase.api import attack as attack
    from erase.api import evaluate as evaluate
    from erase.api import generate as generate
    from erase.api import read_scores as read_scores
    from erase.concept import Concept as Concept
    from erase.config import available_methods as available_methods


__version__ = "0.1.0"
__all__ = [
    "Concept",
    "__version__",
    "attack",
    "available_methods",
    "erase_concept",
    "evaluate",
    "generate",
    "load_erased",
    "read_scores",
]
_ELSEWHERE = {
    "Concept": "erase.concept",
    "attack": "erase.api",
    "available_methods": "erase.config",
    "evaluate": "erase.api",
    "generate": "erase.api",
    "read_scores": "erase.api",
}


def erase_concept(
    base_model: "str | Path | DiffusionPipeline",
    target: str | Sequence[str],
    *,
    method: str = "esd",
    anchor: str = "",
    kind: str = "style",
    synonyms: Sequence[str] = (),
    templates: Sequence[str] = ("{}",),
    retain: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
    out: str | Path | None = None,
    save: str = "pipeline",
    quiet: bool = False,
    **params: Any,  # noqa: ANN401 - the fields of the method's Config
) -> "DiffusionPipeline":
    """Erase a concept.

    Args:
        base_model: ``canvas``, a diffusers folder, a hub id, or a loaded pipeline. A pipeline is changed in place, on
            its own device and in its own dtype; to save it, it must come from a folder or the hub.
        target: What is erased; several things may be erased at once.
        method: A name from ``available_methods()``.
        anchor: What the target is mapped to; ``""`` is the unconditional prompt.
        kind: ``style``, ``object``, ``combination``, ``person`` or ``explicit``.
        synonyms: Other names of the target, for evaluation and for a block list.
        templates: Forget prompts; ``{}`` stands for the target.
        retain: Prompts that must keep their meaning, for methods that use them.
        seed: All randomness derives from it.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        gradient_checkpointing: Compute blocks again in a backward: less memory, about one more forward per backward.
        out: Where to save the result; without it nothing is written.
        save: ``pipeline`` or ``delta``.
        quiet: No progress bars.
        **params: The fields of the method's ``Config``, such as ``steps=100``.

    Returns:
        The erased pipeline.
    """
    from erase.config import read_config
    from erase.experiment import run_experiment

    pipe = None if isinstance(base_model, str | Path) else base_model
    if pipe is not None:
        device, dtype = str(pipe.device), str(pipe.unet.dtype).removeprefix("torch.")
    settings = {
        "method": method,
        "base_model": str(base_model) if pipe is None else _origin(pipe, needed=out is not None),
        "concept": {
            "target": [target] if isinstance(target, str) else list(target),
            "anchor": anchor,
            "kind": kind,
            "synonyms": list(synonyms),
            "templates": list(templates),
        },
        "retain": list(retain),
        "params": params,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "gradient_checkpointing": gradient_checkpointing,
        "save": save,
        "out": None if out is None else str(out),
    }
    return run_experiment(read_config(settings=settings), pipe=pipe, quiet=quiet)


def load_erased(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: "torch.dtype | None" = None,
    base_model: str | None = None,
) -> "DiffusionPipeline":
    """Load the folder of an erasure, of either form, after checking that it is complete and unaltered.

    Args:
        folder: What ``erase run`` or ``erase export`` made.
        device: Where the pipeline goes.
        dtype: The dtype it was saved in, unless given.
        base_model: Where the base of a delta is, if not where it was.

    Returns:
        The erased pipeline.
    """
    from erase.artifact.folder import load

    return load(Path(folder), device=device, dtype=dtype, base_model=base_model)


def _origin(pipe: "DiffusionPipeline", *, needed: bool) -> str:
    """Return where a loaded pipeline came from, which is what its saved result is compared with."""
    origin = pipe.name_or_path
    if not origin and needed:
        raise ValueError(
            "The pipeline was not loaded from a folder or the hub, so what changed cannot be recorded: save it with "
            "pipe.save_pretrained(FOLDER) and pass the loaded FOLDER, or leave out 'out'."
        )
    return origin or "a pipeline in memory"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - classes and functions
    """Import the public names of other files when they are first asked for."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module 'erase' has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE[name]), name)


def __dir__() -> list[str]:
    """Return all names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
