"""Hashes that say whether two pipelines hold the same weights."""

import hashlib
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch import nn

from eval.files import hash_json


class Fingerprint(NamedTuple):
    """SHA-256 of each component of a pipeline, of each tensor, and of all with the pipeline's class and settings."""

    components: dict[str, str]
    tensors: dict[str, tuple[str, int]]  # component.tensor -> hash, number of values
    model: str

    def same_weights(self, other: "Fingerprint") -> bool:
        """Whether every module that draws the image has the same weights, whatever code wraps them."""
        return self.tensors == other.tensors


class Footprint(NamedTuple):
    """How many of a model's weights differ from another's."""

    components: list[str]  # those that differ
    tensors: int
    tensors_of: int
    parameters: int
    parameters_of: int


def fingerprint(pipe: DiffusionPipeline) -> Fingerprint:
    """Hash a loaded pipeline; load both sides with one dtype to compare them.

    It reads all weights, which takes seconds for a large model: whoever loads a pipeline hashes it once and passes the
    result on.
    """
    components: dict[str, str] = {}
    tensors: dict[str, tuple[str, int]] = {}
    for name, part in sorted(pipe.components.items()):
        if isinstance(part, nn.Module):
            state = part.state_dict()
            # a layer that carries an adapter keeps the base's weights as its base_layer
            own = {
                f"{name}.{key.replace('.base_layer.', '.')}": (hash_tensor(state[key]), state[key].numel())
                for key in sorted(state)
            }
            components[name] = hash_json(own)
            tensors |= own
        elif name in ("scheduler", "guider"):
            public = {key: value for key, value in part.config.items() if not key.startswith("_")}
            components[name] = hash_json([type(part).__name__, public])
    whole = [type(pipe).__qualname__, components]
    if not type(pipe).__module__.startswith("diffusers.pipelines."):
        # a class of somebody's own may act on a prompt by its settings, such as the names of a block list
        own = {key: value for key, value in pipe.config.items() if not key.startswith("_")}
        whole.append({key: value for key, value in own.items() if key not in pipe.components})
    return Fingerprint(components, tensors, hash_json(whole))


def footprint(model: Fingerprint, base: Fingerprint) -> Footprint:
    """Compare two fingerprints tensor by tensor; a tensor that only one side has counts as different."""
    every = model.tensors | base.tensors
    changed = [name for name in every if model.tensors.get(name) != base.tensors.get(name)]
    return Footprint(
        components=sorted({name.split(".", 1)[0] for name in changed}),
        tensors=len(changed),
        tensors_of=len(every),
        parameters=sum(every[name][1] for name in changed),
        parameters_of=sum(size for _, size in every.values()),
    )


def hash_tensor(tensor: torch.Tensor) -> str:
    """SHA-256 of the shape, the type and the values of a tensor."""
    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
