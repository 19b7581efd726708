"""Soft-token attack: token embeddings in front of a prompt that bring a loss down (arXiv 2405.15234, eq. 4 and 7).

There is no norm ball: the embeddings may go anywhere, as in the paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline

from erase.model.diffusion import backward


OPTIMIZERS = ("adam", "sign")


class Attack(NamedTuple):
    """What an attack found."""

    prefix: torch.Tensor  # (B, k, D), fp32
    losses: torch.Tensor  # (steps,), each before its step


def random_prefix(pipe: DiffusionPipeline, tokens: int, *, generator: torch.Generator) -> torch.Tensor:
    """Return the embeddings (1, k, D) of random tokens of the vocabulary, in fp32: a start, or a control."""
    vocabulary = pipe.text_encoder.get_input_embeddings().weight.detach()
    picked = torch.randint(len(vocabulary), (tokens,), generator=generator)
    return vocabulary[picked.to(vocabulary.device)].float()[None]


def attack_prefix(
    loss: Callable[[torch.Tensor, int], torch.Tensor],
    start: torch.Tensor,
    *,
    steps: int,
    lr: float,
    optimizer: str = "adam",
    dtype: torch.dtype = torch.float32,
    upstream: bool = False,
) -> Attack:
    """Minimise ``loss`` over a prefix and return the prefix after the last step.

    Several prefixes are searched for at once, and independently, if the loss is the sum of theirs: both optimisers go
    number by number.

    Args:
        loss: From a prefix and the number of the step to a scalar; it may look at another state in each step.
        start: The first prefix, (B, k, D), of which B is 1 or the number of prefixes; left as it is.
        steps: How many.
        lr: Of Adam, or how far every number moves in a step of ``sign`` (alpha of eq. 7).
        optimizer: ``adam`` or ``sign``.
        dtype: The precision of the model beneath the loss.
        upstream: As in the authors' code: gradients add up over the steps, ``sign`` feeds Adam the signs of that sum
            with the last signs as its start, and the prefix is the one before the last step.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"The attack optimiser {optimizer!r} is unknown: choose one of {', '.join(OPTIMIZERS)}.")
    prefix = before = start.detach().clone().requires_grad_(True)
    adam, carried, losses = torch.optim.Adam([prefix], lr=lr), torch.zeros_like(prefix), []
    for step in range(steps):
        before = prefix.detach().clone()
        with torch.enable_grad():  # the caller may be inside no_grad
            value = loss(prefix, step)
        losses.append(value.detach())
        direction = _gradient(value, prefix, dtype=dtype) + (carried if upstream else 0.0)
        carried = direction.sign() if optimizer == "sign" else direction
        if optimizer == "adam" or upstream:
            prefix.grad = carried.clone()
            adam.step()
        else:
            prefix.data.sub_(lr * carried)
    found = (before if upstream else prefix).detach()
    if not found.isfinite().all():
        raise ValueError("The attack ended in embeddings that are not finite: lower its lr, or use another dtype.")
    return Attack(found, torch.stack(losses) if losses else torch.zeros(0))


def _gradient(loss: torch.Tensor, prefix: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    prefix.grad = None
    backward(loss, [prefix], dtype=dtype)
    if prefix.grad is None:
        raise ValueError("The loss of the attack does not depend on the prefix: encode the prompt with the prefix.")
    return prefix.grad
