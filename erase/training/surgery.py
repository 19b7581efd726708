"""Gradient surgery: take out of the unlearning gradient what would undo the retain gradient, tensor by tensor.

From DoCo, https://arxiv.org/abs/2405.15304. Gradients are dictionaries from name to tensor, unlearn g_u and retain g_r
with the same names; nothing is changed in place. ``strength`` is the paper's lambda, and 1 removes the conflict whole.

What becomes of the retain gradient: in every mode but ``upstream`` it only says what to remove and is never added;
``upstream`` adds a multiple of it wherever the two conflict; ``none`` does not look at it.
"""

from collections.abc import Callable

import torch


Gradients = dict[str, torch.Tensor]


def projection(unlearn: Gradients, retain: Gradients, strength: float = 1.0) -> Gradients:
    """Return g_u - strength (<g_u, g_r> / |g_r|^2) g_r for each tensor where <g_u, g_r> < 0, and else g_u.

    Example:
        >>> projection({"a": torch.tensor([1.0, -2.0])}, {"a": torch.tensor([0.0, 3.0])})
        {'a': tensor([1., 0.])}
        >>> projection({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([0.0, 3.0])})
        {'a': tensor([1., 2.])}
    """
    return {name: _project(gradient, _unit(retain[name]), strength) for name, gradient in unlearn.items()}


def upstream(unlearn: Gradients, retain: Gradients, strength: float = 1.0) -> Gradients:
    """Return what the authors' published code computes, which is not a projection.

    Both gradients are first clipped to a norm of 1 over all tensors; then g_u - strength cos(g_u, g_r) g_r / |g_r|
    lacks the factor |g_u|, so that a tensor in conflict turns into a step along the retain gradient.

    Example:
        >>> upstream({"a": torch.tensor([0.0, -0.5])}, {"a": torch.tensor([0.0, 3.0])})
        {'a': tensor([0.0000, 0.5000])}
    """
    unlearn, retain = _clip(unlearn), _clip(retain)
    combined = {}
    for name, gradient in unlearn.items():
        direction = _unit(retain[name])
        cosine = (_unit(gradient) * direction).sum()
        combined[name] = gradient - strength * cosine.clamp(max=0.0) * direction
    return combined


def sign_mask(unlearn: Gradients, retain: Gradients, strength: float = 1.0) -> Gradients:
    """Return g_u times 1 - strength at every entry whose sign is opposite to the retain gradient's.

    Example:
        >>> sign_mask({"a": torch.tensor([1.0, -2.0, 3.0])}, {"a": torch.tensor([1.0, 1.0, 0.0])})
        {'a': tensor([1., -0., 3.])}
    """
    return {name: gradient * (1 - strength * (gradient * retain[name] < 0)) for name, gradient in unlearn.items()}


def none(unlearn: Gradients, retain: Gradients, strength: float = 1.0) -> Gradients:
    """Return g_u as it is; the retain gradient is ignored, not added."""
    return dict(unlearn)


MODES: dict[str, Callable[[Gradients, Gradients, float], Gradients]] = {
    "projection": projection,
    "upstream": upstream,
    "sign_mask": sign_mask,
    "none": none,
}


def conflict_share(unlearn: Gradients, retain: Gradients) -> float:
    """Return the share of tensors whose two gradients point against each other.

    Example:
        >>> one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> conflict_share({"a": one, "b": two}, {"a": -one, "b": two})
        0.5
    """
    return sum(bool((unlearn[name] * retain[name]).sum() < 0) for name in unlearn) / len(unlearn)


def _project(gradient: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return gradient - strength * (gradient * direction).sum().clamp(max=0.0) * direction


def _unit(tensor: torch.Tensor) -> torch.Tensor:
    """Return the direction; a gradient of nothing but zeros has none and stays as it is."""
    norm = tensor.norm()
    return tensor / torch.where(norm > 0, norm, 1.0)


def _clip(gradients: Gradients) -> Gradients:
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    # the small number is the one in torch.nn.utils.clip_grad_norm_
    factor = (1.0 / (norm + 1e-6)).clamp(max=1.0)
    return {name: gradient * factor for name, gradient in gradients.items()}
