"""How much of the wall time is spent in the forwards of some modules, measured by hooks that are removed afterwards."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from eval.models.text_to_image import autoencoders, denoisers


class Clock:
    """The wall time since it was made, and the parts of it that forwards and loading took, in seconds."""

    def __init__(self) -> None:
        """Start."""
        self.loading = 0.0
        self._start, self._end = time.perf_counter(), 0.0
        self._on_cpu: list[float] = []  # start, end, start, end, ...
        self._on_device: list[torch.Event] = []  # the same: what a device does is over later than its call

    @property
    def wall(self) -> float:
        """Seconds until it was stopped, or until now, without loading."""
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
        """What a report keeps: ``seconds`` and ``loading_seconds``, and the share ``outside`` the forwards."""
        seconds = {"seconds": round(self.wall, 3), "loading_seconds": round(self.loading, 3)}
        return seconds | {"outside": round(self.outside, 4)}

    def stop(self) -> None:
        """The wall time ends here."""
        self._end = time.perf_counter()

    @contextmanager
    def load(self) -> Iterator[None]:
        """What happens in this block is loading, and no part of the wall time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.loading += time.perf_counter() - start

    @contextmanager
    def watch(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Note the forwards of ``modules`` in this block, none of which may call another one."""
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
    """Measure the block, and within it the forwards of ``modules``, none of which may call another one."""
    clock = Clock()
    try:
        with clock.watch(modules):
            yield clock
    finally:
        clock.stop()


def spent_by_all(spent: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of what several clocks said.

    >>> one, other = {"seconds": 3.0, "loading_seconds": 1.0, "outside": 0.1}, {"seconds": 1.0, "outside": 0.5}
    >>> spent_by_all([one, other | {"loading_seconds": 0.5}])
    {'seconds': 4.0, 'loading_seconds': 1.5, 'outside': 0.2}
    """
    seconds = sum(each["seconds"] for each in spent)
    outside = sum(each["outside"] * each["seconds"] for each in spent)
    return {
        "seconds": round(seconds, 3),
        "loading_seconds": round(sum(each["loading_seconds"] for each in spent), 3),
        "outside": round(outside / seconds, 4) if seconds else 0.0,
    }


def drawing_modules(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The denoisers and the parts of the VAE, whose ``decode`` is not a forward of its own."""
    return [*denoisers(pipe).values(), *(part for vae in autoencoders(pipe) for part in vae.children())]
