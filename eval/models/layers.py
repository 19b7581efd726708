"""How far each layer of an erased pipeline lies from the base's: the relative norm of its weight change."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from torch import nn

from erase.model import base_model
from eval.models.text_to_image import DENOISERS


# where the methods of this field change weights
COMPONENTS = (*DENOISERS, "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")


def layer_changes(pipe: DiffusionPipeline, base: str | DiffusionPipeline) -> dict[str, dict[str, float | None]]:
    """Compare a pipeline with its base; memory holds one component of the base at a time.

    Args:
        pipe: The erased pipeline; an active adapter counts as its product B A times its scale.
        base: The pipeline that it was made from, or its name: ``canvas``, a diffusers folder or a hub id.

    Returns:
        component -> layer -> ||W - W_base|| / ||W_base|| (Frobenius, weights and biases of the layer together), in the
        order of the model. 0 is the base's layer; None is a layer that the base does not have in this shape.

    Raises:
        FileNotFoundError: There is no such base.
    """
    changes: dict[str, dict[str, float | None]] = {}
    for component in COMPONENTS:
        module = pipe.components.get(component)
        if isinstance(module, nn.Module):
            changes[component] = _compare(module, _base_component(base, component, like=module))
    return changes


def relative_norm(change: torch.Tensor, base: torch.Tensor) -> float:
    """The Frobenius norm of a change as a share of the base's.

    >>> relative_norm(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0]))
    0.5
    """
    size = float(base.double().norm())
    return float(change.double().norm()) / size if size else float(change.any())


def _compare(module: nn.Module, base: dict[str, torch.Tensor]) -> dict[str, float | None]:
    layers: dict[str, float | None] = {}
    for name, tensors, added in _layers(module):
        before = {key: base[key].detach().cpu().float() for key in tensors if key in base}
        if any(key not in before or before[key].shape != tensor.shape for key, tensor in tensors.items()):
            layers[name] = None
            continue
        changes = [
            (tensor.detach().cpu().float() - before[key] + added.get(key, 0)).flatten()
            for key, tensor in tensors.items()
        ]
        layers[name] = relative_norm(torch.cat(changes), torch.cat([tensor.flatten() for tensor in before.values()]))
    return layers


def _layers(module: nn.Module) -> Iterator[tuple[str, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Every layer with own weights: its name, its tensors by the base's names, and what an adapter adds to them."""
    for name, layer in module.named_modules():
        if name.endswith(".base_layer") or ".lora_" in name:
            continue
        inner = layer if not isinstance(layer, LoraLayer) else module.get_submodule(f"{name}.base_layer")
        tensors = {f"{name}.{key}" if name else key: tensor for key, tensor in inner.named_parameters(recurse=False)}
        if tensors:
            yield name, tensors, {f"{name}.weight": change} if (change := _adapter_change(layer)) is not None else {}


def _adapter_change(layer: nn.Module) -> torch.Tensor | None:
    """What the active adapters of a layer add to its weight: the sum of scale * B A."""
    if not isinstance(layer, LoraLayer) or layer.merged or layer.disable_adapters:
        return None
    carrier: Any = layer  # the mixin does not declare what every layer of it has
    changes = [carrier.get_delta_weight(name) for name in layer.active_adapters if name in layer.lora_A]
    return torch.stack(changes).sum(0).detach().cpu().float() if changes else None


def _base_component(base: str | DiffusionPipeline, component: str, *, like: nn.Module) -> dict[str, torch.Tensor]:
    if isinstance(base, DiffusionPipeline):
        part = base.components.get(component)
        # a layer that carries an adapter keeps its own weights as its base_layer
        parameters = part.named_parameters() if isinstance(part, nn.Module) else ()
        return {name.replace(".base_layer.", "."): tensor for name, tensor in parameters}
    folder = base_model.resolve(base)
    if not (folder / component).is_dir():
        return {}
    cls: Any = type(like)
    part = cls.from_pretrained(folder, subfolder=component, dtype=like.dtype, local_files_only=True)
    return dict(part.named_parameters())
