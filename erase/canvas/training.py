"""The resumable loop that trains every part of the canvas: cosine rate, EMA, checkpoints, progress."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from tqdm import tqdm

from erase.training import checkpoint


logger = logging.getLogger(__name__)
CHECKPOINT_EVERY = 500  # steps
Trained = TypeVar("Trained", bound=torch.nn.Module)


def fit(
    module: Trained,
    loss: Callable[[torch.Generator], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    ema_decay: float = 0.995,
    seed: int,
    path: Path,
) -> Trained:
    """Minimise ``loss(generator)`` over the parameters of ``module``; returns it holding the averaged weights.

    Every step draws from its own generator, so a resumed training sees the same batches as an unbroken one. The
    learning rate warms up over 200 steps and falls along a cosine to zero.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True
    )
    average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    start = _resume(module, average, optimizer, path) if path.exists() else 0
    module.train()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=path.stem, mininterval=5)
    running: float | None = None
    for step in bar:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        value = loss(generator)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _follow(average, module, decay=min(ema_decay, (step + 1) / (step + 10)))
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            tensors = {f"model.{k}": v for k, v in module.state_dict().items()}
            tensors |= {f"ema.{k}": v for k, v in average.items()}
            checkpoint.save(path, tensors, optimizer, {"step": step + 1, "steps": steps, "loss": running})
    module.load_state_dict(average)
    return module.eval()


def _resume(
    module: torch.nn.Module, average: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, path: Path
) -> int:
    """Load the weights, their average and the optimiser; returns the steps that are done."""
    state = checkpoint.load(path, optimizer)
    module.load_state_dict(checkpoint.under("model.", state.tensors))
    average.update(checkpoint.under("ema.", state.tensors))
    logger.info("%s: resumed at step %d", path.stem, state.meta["step"])
    return state.meta["step"]


def _follow(average: dict[str, torch.Tensor], module: torch.nn.Module, *, decay: float) -> None:
    """Move the averaged weights towards those of now; whole numbers, such as counts of batches, are copied."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)
