"""How much of the wall time some modules spend in their forwards, measured by hooks that are removed afterwards."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from eval.models.text_to_image import autoencoders, denoisers


class Clock:
    """The wall time since the clock started, and how much of it forwards and loading took, in seconds."""

    def __init__(self) -> None:
        """Start."""
        self.loading = 0.0
        self._start, self._end = time.perf_counter(), 0.0
        self._on_cpu: list[float] = []  # start, end, start, end, ...
        self._on_device: list[torch.Event] = []  # the same; a device finishes later than the call returns

    @property
    def wall(self) -> float:
        """Seconds until the clock stopped, or until now, without loading."""
        return (self._end or time.perf_counter()) - self._start - self.loading

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

    @property
    def spent(self) -> dict[str, float]:
        """For a report: ``seconds``, ``loading_seconds``, and the share ``outside`` the forwards."""
        seconds = {"seconds": round(self.wall, 3), "loading_seconds": round(self.loading, 3)}
        return seconds | {"outside": round(self.outside, 4)}

    def stop(self) -> None:
        """End the wall time here."""
        self._end = time.perf_counter()

    @contextmanager
    def load(self) -> Iterator[None]:
        """Count this block as loading, not as wall time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.loading += time.perf_counter() - start

    @contextmanager
    def watch(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Note the forwards of ``modules`` in this block; none of them may call another one."""
        hooks = []
        for module in modules:
            hooks += [module.register_forward_pre_hook(self._mark), module.register_forward_hook(self._mark)]
        try:
            yield
        finally:
            for event in self._on_device[-1:]:
                event.synchronize()
            for hook in hooks:
                hook.remove()

    def _mark(self, module: nn.Module, *_: Any) -> None:  # noqa: ANN401 - what a hook is given
        """Note the moment at which a forward begins or ends."""
        parameter = next(module.parameters(), None)
        if parameter is None or parameter.device.type == "cpu":
            self._on_cpu.append(time.perf_counter())
            return
        event = torch.Event(device=parameter.device, enable_timing=True)
        event.record()
        self._on_device.append(event)


@contextmanager
def measure(modules: Iterable[nn.Module]) -> Iterator[Clock]:
    """Measure the block, and in it the forwards of ``modules``; none of them may call another one."""
    clock = Clock()
    try:
        with clock.watch(modules):
            yield clock
    finally:
        clock.stop()


def drawing_modules(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The denoisers and the parts of the VAE; the ``decode`` of a VAE is not a forward, so its parts are watched."""
    return [*denoisers(pipe).values(), *(part for vae in autoencoders(pipe) for part in vae.children())]
