"""The artefact of a method that leaves the base's weights as they are and guides the generation: UnGuide, block list.

Its folder needs code to be loaded, so plain diffusers asks for ``trust_remote_code=True``. Here the same folder is put
together by this package's own classes: no code in a folder is ever run.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import pipelines

from erase.pipelines.inference_only import BlockListPipeline, InferenceOnlyPipeline, NegativePromptPipeline
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.pipelines.unguide.unguidance import UnGuidance


CODE = ("pipeline.py", "guider/unguidance.py", "inference_only.py")
PIPELINES = (UnGuidePipeline, InferenceOnlyPipeline)
_CLASSES: dict[tuple[str, ...], type] = {
    ("pipeline", "UnGuidePipeline"): UnGuidePipeline,
    ("inference_only", "NegativePromptPipeline"): NegativePromptPipeline,
    ("inference_only", "BlockListPipeline"): BlockListPipeline,
}
_INDEX = "model_index.json"


def is_guided(folder: Path) -> bool:
    """Whether a pipeline folder is of this kind, by its index."""
    return _class_of(folder) in _CLASSES


def load(folder: Path, *, device: str, dtype: torch.dtype) -> UnGuidePipeline | InferenceOnlyPipeline:
    """Load a verified folder in one dtype.

    Args:
        folder: What ``save_pretrained`` of one of the pipelines wrote.
        device: Where the pipeline goes.
        dtype: The dtype of every component.

    Returns:
        The pipeline.
    """
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    parts: dict[str, Any] = {name: value for name, value in index.items() if not name.startswith("_")}
    for name, entry in parts.items():
        if name == "guider":
            parts[name] = UnGuidance.from_pretrained(folder / name)
        elif isinstance(entry, list):
            parts[name] = None if entry[0] is None else _load_part(folder / name, *entry, dtype=dtype)
    return _CLASSES[_class_of(folder)](**parts).to(device)


def adapter_tensors(pipe: UnGuidePipeline) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors as they are named in the folder; refuse one that would erase nothing."""
    tensors = {f"guider.unet.{name}": tensor for name, tensor in pipe.guider.weights.items()}
    if not any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name):
        raise ValueError("The adapter adds nothing to the base model, so nothing is erased: nothing was saved.")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("The adapter holds values that are not finite: nothing was saved; lower the learning rate.")
    return tensors


def component_names(folder: Path) -> list[str]:
    """Return the folders that take part in loading."""
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return [name for name, entry in index.items() if not name.startswith("_") and isinstance(entry, list)]


def _class_of(folder: Path) -> tuple[str, ...]:
    name = json.loads((folder / _INDEX).read_text(encoding="utf-8")).get("_class_name")
    return tuple(name) if isinstance(name, list) else (str(name),)


def _load_part(folder: Path, library: str, name: str, *, dtype: torch.dtype) -> Any:  # noqa: ANN401 - any component
    if library not in ("diffusers", "transformers") and not hasattr(pipelines, library):
        raise ValueError(f"{folder} is of the library {library!r}, which is not loaded: make the erasure again.")
    module = getattr(pipelines, library) if hasattr(pipelines, library) else importlib.import_module(library)
    cls = getattr(module, name)
    options = {"dtype": dtype} if issubclass(cls, torch.nn.Module) else {}
    return cls.from_pretrained(folder, local_files_only=True, **options)
