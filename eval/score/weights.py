"""Files of weights: read as tensors and nothing else, and told from the published ones by their hash."""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.files import sha256


if TYPE_CHECKING:
    import torch


ABSENT = "weights absent"  # why a scorer did not run


def weights_card(path: Path, *, published: str) -> dict[str, Any]:
    """What a report says of a scorer's weights: their SHA-256, and whether it is that of the published file."""
    code = sha256(path)
    return {"weights_sha256": code, "is_published": code == published}


def read_state(path: Path, name: str, *, inner: str = "") -> "dict[str, torch.Tensor]":
    """Read a state dict that holds tensors only.

    Args:
        path: The file.
        name: Whose weights they are, for messages.
        inner: The key under which a checkpoint holds the state dict; a file without this key is the state dict itself.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds anything else.
    """
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"The {name} weights {path} do not exist; give the path of a file on this machine.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of tensors; give the {name} weights as a state dict.") from error
    if isinstance(state, dict) and inner in state:
        state = state[inner]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a state dict; give the {name} weights as one.")
    return state
