"""The model that an erasure starts from: ``canvas``, a diffusers folder or a hub id, checked before it is loaded.

torch and diffusers take seconds to import and are imported only to load a model: a plan finds and checks one without.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from erase.config import DTYPES
from erase.hashing import hash_file_once
from erase.shipped import base_folder


if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


CANVAS = "canvas"
STABLE_DIFFUSION = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")  # in every supported version of diffusers
HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*?)(@(?P<revision>[\w./-]+))?")
# the default variant only, which is what from_pretrained reads: fp16 and EMA copies may lie beside it
_WEIGHTS = r"(diffusion_pytorch_model|model|pytorch_model)(-\d+-of-\d+)?\."
_INDEX = "model_index.json"


def load(base_model: str, *, device: str, dtype: "torch.dtype") -> "DiffusionPipeline":
    """Load a base model on a device in one dtype.

    Args:
        base_model: ``canvas``, a diffusers folder, or a hub id, optionally ``owner/name@revision``.
        device: Where the pipeline goes; see ``pick_device``.
        dtype: The dtype of every component; without it a half-precision checkpoint would load in mixed precision.

    Returns:
        The pipeline.
    """
    folder = resolve(base_model)
    return load_folder(folder, device=device, dtype=dtype)


def load_folder(folder: Path, *, device: str, dtype: "torch.dtype") -> "DiffusionPipeline":
    """Load a diffusers folder that needs no custom code; it is checked first."""
    import torch
    from diffusers import DiffusionPipeline

    check_folder(folder)
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"The model folder {folder} cannot be loaded ({error}): pass a complete diffusers folder."
        ) from error
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and part.dtype != dtype:
            raise ValueError(f"The {name} of {folder} loaded as {part.dtype} although {dtype} was asked for.")
    return pipe.to(device)


def identity(base_model: str) -> dict[str, str | None]:
    """Return what identifies a base model: id, revision (of a hub id) and a SHA-256 over its weights."""
    folder = resolve(base_model)
    match = HUB_ID.fullmatch(base_model)
    from_hub = match is not None and not Path(base_model).exists()
    return {
        "id": match["id"] if match and from_hub else base_model,
        "revision": folder.name if from_hub else None,  # the hub's cache names a snapshot by its commit
        "hash": hash_weights(folder),
    }


def resolve(base_model: str, *, local_only: bool = False) -> Path:
    """Return the checked folder of a base model; a hub id is downloaded unless it is in the cache.

    Args:
        base_model: ``canvas``, a diffusers folder, or a hub id.
        local_only: Download nothing.

    Returns:
        The folder on this machine.
    """
    if base_model == CANVAS:
        folder = base_folder()
    elif Path(base_model).exists():
        folder = Path(base_model)
    elif match := HUB_ID.fullmatch(base_model):
        folder = _download(match["id"], match["revision"], local_only=local_only)
    else:
        raise FileNotFoundError(
            f"The base model {base_model!r} does not exist: pass 'canvas', an existing diffusers folder, or a hub id "
            "such as owner/name."
        )
    check_folder(folder)
    return folder


def read_index(base_model: str, *, local_only: bool = False) -> dict[str, Any]:
    """Return the checked model index of a base model, before its weights: nothing else of a hub model is downloaded.

    Args:
        base_model: ``canvas``, a diffusers folder, or a hub id.
        local_only: Download nothing.

    Returns:
        The content of ``model_index.json``.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It could not be loaded or would run foreign code.
    """
    match = HUB_ID.fullmatch(base_model)
    if match is None or Path(base_model).exists():
        return check_folder(resolve(base_model, local_only=local_only))
    from huggingface_hub import hf_hub_download

    with _hub_errors(match["id"]):
        index = hf_hub_download(match["id"], _INDEX, revision=match["revision"], local_files_only=local_only)
    return _checked_index(Path(index))


def check_folder(folder: Path) -> dict[str, Any]:
    """Return the model index of a diffusers folder, or refuse what could not be loaded or would run foreign code."""
    index = folder / _INDEX
    if not folder.is_dir():
        raise FileNotFoundError(f"The model folder {folder} does not exist: pass the path of a diffusers folder.")
    if (folder / "delta.safetensors").exists():
        raise ValueError(
            f"{folder} holds only the changes of an erasure: run 'erase export {folder} --format pipeline --out OUT' "
            "and pass OUT."
        )
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has no {_INDEX}, so it is not a diffusers folder: pass one that has it.")
    content = _checked_index(index)
    for part in _parts(content):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{index} lists the component {part!r}, but {folder / part} does not exist.")
    return content


def hash_weights(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of the weight files that ``from_pretrained`` reads."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()} {hash_file_once(path)}\n".encode())
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of all components in a fixed order: safetensors, or else the older format."""
    found: list[Path] = []
    for part in sorted(component_names(folder)):
        files = sorted((folder / part).iterdir())
        for suffix in ("safetensors", "bin"):
            weights = [path for path in files if re.fullmatch(_WEIGHTS + suffix, path.name)]
            if weights:
                found += weights
                break
    if not found:
        raise FileNotFoundError(f"{folder} holds no weights: pass a complete diffusers folder.")
    return found


def count_parameters(folder: Path) -> dict[str, int]:
    """Return the number of weights by component, read from the headers only."""
    counts: dict[str, int] = {}
    for path in weight_files(folder):
        part = path.parent.name
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a dict
            count = sum(math.prod(shape) for shape in shapes)
        else:
            count = path.stat().st_size // 4  # float32, give or take the format's overhead
        counts[part] = counts.get(part, 0) + count
    return counts


def pick_device(name: str) -> str:
    """Return the device to use; ``auto`` takes a GPU where there is one.

    Example:
        >>> pick_device("cpu")
        'cpu'
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"The device {name!r} is unknown: pass auto, cpu, cuda, cuda:1 or mps.") from error
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, True):
        raise ValueError(f"The device {name!r} is not available on this machine: pass cpu, or auto to choose.")
    return name


def pick_dtype(name: str) -> "torch.dtype":
    """Return the torch dtype of a name; diffusers would take an unknown one for float32 and only log it.

    Example:
        >>> pick_dtype("bfloat16")
        torch.bfloat16
    """
    check_dtype(name)
    import torch

    return getattr(torch, name)


def check_dtype(name: str) -> None:
    """Refuse the name of a dtype that ``pick_dtype`` does not know."""
    if name not in DTYPES:
        raise ValueError(f"The dtype {name!r} is unknown: choose one of {', '.join(DTYPES)}.")


def component_names(folder: Path) -> list[str]:
    """Return the components that the model index of a folder lists and that have a folder there."""
    return _parts(check_folder(folder))


def _checked_index(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): pass an intact diffusers folder.") from error
    name = content.get("_class_name")
    if isinstance(name, list):
        raise ValueError(
            f"{path.parent} needs custom code ({'.'.join(map(str, name))}), which is not run: pass a stock pipeline."
        )
    if not isinstance(name, str) or not _is_in_diffusers(name):
        raise ValueError(f"{path} names the pipeline {name!r}, which diffusers does not have: pass a stock one.")
    return content


def _is_in_diffusers(name: str) -> bool:
    if name in STABLE_DIFFUSION:
        return True
    import diffusers

    return hasattr(diffusers, name)


def _parts(index: dict[str, Any]) -> list[str]:
    return [
        name
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and value and value[0] is not None
    ]


def _download(hub_id: str, revision: str | None, *, local_only: bool) -> Path:
    with _hub_errors(hub_id):
        if local_only:
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
        from diffusers import DiffusionPipeline

        return Path(DiffusionPipeline.download(hub_id, revision=revision))


@contextmanager
def _hub_errors(hub_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"The base model {hub_id!r} is neither a folder on this machine nor a hub model that is cached or can be "
            f"fetched ({type(error).__name__}): pass 'canvas', an existing folder, or go online."
        ) from error
