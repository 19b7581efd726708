"""Open what another project left: one file of tensors and the settings beside it. No code in it is ever run."""

import json
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from erase.artifact import folder as artifact


# in a folder: what holds the weights, the first that is there of each line
_WEIGHTS = (
    ("model.safetensors", "pytorch_model.bin"),  # a text encoder of the hub
    ("models/lora.pth", "lora.pth"),  # UnGuide
    ("adapter_model.safetensors", "adapter_model.bin"),  # peft
    ("pytorch_lora_weights.safetensors",),  # diffusers
    ("delta.bin",),  # Concept Ablation and DoCo
)
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_SHARD = re.compile(r".*-\d{5}-of-(?!00001\.)\d{5}\.\w+")  # one of several files that hold a model together


class Source(NamedTuple):
    """One opened file.

    Attributes:
        path: The file with the weights.
        content: What it holds: tensors by name, or dicts of them.
        metadata: The header of a safetensors file.
        settings: The JSON files beside it, by their name: ``train_config.json`` (UnGuide), ``adapter_config.json``
            (peft) and ``config.json`` (a text encoder).
    """

    path: Path
    content: dict[str, Any]
    metadata: dict[str, str]
    settings: dict[str, dict[str, Any]]


def open_source(source: Path) -> Source:
    """Open a file, or the file of weights in a folder.

    Args:
        source: ``.safetensors``, or a pickle of tensors (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), or a folder.

    Returns:
        The opened file; tensors are on the CPU in their own dtype.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds code, is a part of several, or is of a kind that nobody writes.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: pass the file or the folder that another project saved.")
    path = _find_weights(source) if source.is_dir() else source
    if _SHARD.fullmatch(path.name):
        raise ValueError(
            f"{path} is one of several files that hold a model together, so what the others changed would be left out: "
            "save all tensors in one file first."
        )
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            content: Any = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not an intact safetensors file ({error}): get it again.") from error
    elif path.suffix in _PICKLES:
        content = _load_pickle(path)
    else:
        raise ValueError(
            f"{path} ends in {path.suffix!r}, but .safetensors, {', '.join(_PICKLES)} or a folder is read."
        )
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path} holds no tensors by name, but a {type(content).__name__}: pass a saved state dict.")
    return Source(path, content, metadata, _read_settings(path))


def _read_settings(path: Path) -> dict[str, dict[str, Any]]:
    found = {name: path.parent / name for name in ("train_config.json", "adapter_config.json", "config.json")}
    # the training code of UnGuide saves <run>/models/lora.pth and <run>/train_config.json
    if path.parent.name == "models" and not found["train_config.json"].is_file():
        found["train_config.json"] = path.parent.parent / "train_config.json"
    return {name: _read_json(place) for name, place in found.items() if place.is_file()}


def _find_weights(folder: Path) -> Path:
    if (folder / artifact.CARD).exists():
        raise ValueError(f"{folder} is already an erasure with its {artifact.CARD}: use it as it is.")
    if (folder / "model_index.json").exists():
        raise ValueError(
            f"{folder} is a whole pipeline, but the part that was changed is read: pass its text_encoder folder, or "
            "the weight file of its unet folder."
        )
    found = [next(folder / name for name in line if (folder / name).is_file()) for line in _there(folder)]
    if len(found) != 1:
        state = f"{found[0].name} and {found[1].name}" if found else "no file of weights that is known"
        raise ValueError(f"{folder} holds {state}: pass the one file that is meant.")
    return found[0]


def _there(folder: Path) -> list[tuple[str, ...]]:
    return [line for line in _WEIGHTS if any((folder / name).is_file() for name in line)]


def _load_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is no torch file, and loading it could run foreign code, so it is "
            "not loaded: have its author save the state dict alone."
        ) from error
    # torch does not check what it reads: a damaged file may end in any of these
    except (RuntimeError, EOFError, ValueError, TypeError, LookupError, AssertionError, AttributeError) as error:
        raise ValueError(f"{path} is not an intact torch file ({error}): get it again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}), and it says how to read the weights: get it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings by name: get it again.")
    return content
