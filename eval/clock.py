"""How much of the wall time is spent in the forwards of some modules, measured by hooks that are removed afterwards."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from eval.text_to_image import autoencoders, denoisers


class Clock:
    """The wall time of a block and the part of it that forwards took, both in seconds; complete after the block."""

    def __init__(self) -> None:
        """Nothing has been measured yet."""
        self.wall = 0.0
        self._on_cpu: list[float] = []  # start, end, start, end, ...
        self._on_device: list[torch.Event] = []  # the same: what a device does is over later than its call

    @property
    def inside(self) -> float:
        """Seconds in forwards."""
        events = zip(self._on_device[::2], self._on_device[1::2], strict=False)
        spans = zip(self._on_cpu[::2], self._on_cpu[1::2], strict=False)
        return sum(end - start for start, end in spans) + sum(start.elapsed_time(end) for start, end in events) / 1e3

    @property
    def outside(self) -> float:
        """The share of the wall time outside the forwards, from 0 to 1."""
        return max(0.0, 1 - self.inside / self.wall) if self.wall else 0.0

    def mark(self, module: nn.Module, *_: Any) -> None:  # noqa: ANN401 - what a hook is given
        """Note the moment at which a forward begins or ends."""
        device = next(module.parameters()).device
        if device.type == "cpu":
            self._on_cpu.append(time.perf_counter())
            return
        event = torch.Event(device=device, enable_timing=True)
        event.record()
        self._on_device.append(event)


@contextmanager
def measure(modules: Iterable[nn.Module]) -> Iterator[Clock]:
    """Measure the block, and within it the forwards of ``modules``, none of which may call another one."""
    clock = Clock()
    hooks = []
    for module in modules:
        hooks += [module.register_forward_pre_hook(clock.mark), module.register_forward_hook(clock.mark)]
    start = time.perf_counter()
    try:
        yield clock
    finally:
        clock.wall = time.perf_counter() - start
        for event in clock._on_device[-1:]:
            event.synchronize()
        for hook in hooks:
            hook.remove()


def drawing_modules(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The denoisers and the parts of the VAE, whose ``decode`` is not a forward of its own."""
    return [*denoisers(pipe).values(), *(part for vae in autoencoders(pipe) for part in vae.children())]
