"""Resumable training state in one safetensors file: tensors, optimiser moments and a JSON header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file


# one optimiser, or several by name
Optimizers = torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer]


class Checkpoint(NamedTuple):
    """What ``save`` wrote: tensors by name, and the JSON-able facts beside them."""

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


def save(path: Path, tensors: dict[str, torch.Tensor], optimizer: Optimizers, meta: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name and rename it, so that a kill leaves the previous one intact."""
    packed = {f"tensor.{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
    for name, each in _by_name(optimizer).items():
        for index, moments in each.state_dict()["state"].items():
            packed |= {f"optimizer.{name}.{index}.{key}": value.contiguous() for key, value in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(packed, partial, metadata={"meta": json.dumps(meta)})
    partial.rename(path)


def load(path: Path, optimizer: Optimizers) -> Checkpoint:
    """Read a checkpoint and put its moments into ``optimizer``, which has the same parameters in the same order."""
    optimizers = _by_name(optimizer)
    tensors: dict[str, torch.Tensor] = {}
    states: dict[str, dict[int, dict[str, torch.Tensor]]] = {name: {} for name in optimizers}
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
        for key in file.keys():  # noqa: SIM118 - not a dict
            space, name = key.split(".", 1)
            if space == "tensor":
                tensors[name] = file.get_tensor(key)
            else:
                owner, index, moment = name.split(".", 2)
                states[owner].setdefault(int(index), {})[moment] = file.get_tensor(key)
    for name, each in optimizers.items():
        each.load_state_dict({"state": states[name], "param_groups": each.state_dict()["param_groups"]})
    return Checkpoint(tensors, meta)


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it.

    Example:
        >>> under("a.", {"a.x": torch.zeros(1), "b.x": torch.zeros(1)}).keys()
        dict_keys(['x'])
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _by_name(optimizer: Optimizers) -> Mapping[str, torch.optim.Optimizer]:
    return {"student": optimizer} if isinstance(optimizer, torch.optim.Optimizer) else optimizer
