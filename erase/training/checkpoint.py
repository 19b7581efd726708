"""Resumable training state in one safetensors file, with optimiser moments and a JSON header; and a pool beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
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
    _write(path, packed, meta)


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


def save_pool(path: Path, pool: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
    """Write rows that are computed once, with the settings that they depend on."""
    _write(path, pool, settings)


def load_pool(path: Path, rows: int, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Read the first ``rows`` of a pool; one that is missing, shorter or of other settings raises ``ValueError``."""
    try:
        with safe_open(path, framework="pt") as file:
            is_ours = json.loads(file.metadata()["meta"]) == json.loads(json.dumps(settings))
            pool = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ValueError(f"The pool {path} cannot be read ({error}): delete its folder to start again.") from error
    if not is_ours or any(len(tensor) < rows for tensor in pool.values()):
        raise ValueError(f"The pool {path} is not that of the checkpoint beside it: delete its folder to start again.")
    return {name: tensor[:rows] for name, tensor in pool.items()}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it.

    Example:
        >>> under("a.", {"a.x": torch.zeros(1), "b.x": torch.zeros(1)}).keys()
        dict_keys(['x'])
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"meta": json.dumps(meta)})
    partial.rename(path)


def _by_name(optimizer: Optimizers) -> Mapping[str, torch.optim.Optimizer]:
    return {"student": optimizer} if isinstance(optimizer, torch.optim.Optimizer) else optimizer
