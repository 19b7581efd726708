"""Resumable training state in one safetensors file: tensors, optimiser moments and a JSON header."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Checkpoint(NamedTuple):
    """What ``save`` wrote: tensors by name, and the JSON-able facts beside them."""

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


def save(path: Path, tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, meta: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name and rename it, so that a kill leaves the previous one intact."""
    packed = {f"tensor.{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        packed |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(packed, partial, metadata={"meta": json.dumps(meta)})
    partial.rename(path)


def load(path: Path, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Read a checkpoint and put its moments into ``optimizer``, which has the same parameters in the same order."""
    tensors: dict[str, torch.Tensor] = {}
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
        for key in file.keys():  # noqa: SIM118 - not a dict
            space, name = key.split(".", 1)
            if space == "tensor":
                tensors[name] = file.get_tensor(key)
            else:
                index, moment = name.split(".", 1)
                state.setdefault(int(index), {})[moment] = file.get_tensor(key)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Checkpoint(tensors, meta)


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it.

    Example:
        >>> under("a.", {"a.x": torch.zeros(1), "b.x": torch.zeros(1)}).keys()
        dict_keys(['x'])
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
