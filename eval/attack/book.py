"""What an attack costs, stage by stage, in ``cost.json``.

Work that was stopped and done again counts as often as it was done. A kill loses the cost of the last seconds only.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from diffusers import DiffusionPipeline

from erase.training.run import Run
from eval.files import write_json
from eval.models.text_to_image import denoisers


COST = "cost.json"
COSTS = ("seconds", "unet_forwards", "unet_backwards")
INTERVAL = 10.0  # seconds between two entries of a stage that is under way


class Book:
    """The costs of one attack, on disk."""

    def __init__(self, folder: Path) -> None:
        """Write nothing yet."""
        self.path = folder / COST

    @contextmanager
    def measure(self, stage: str, pipe: DiffusionPipeline, run: Run) -> Iterator[None]:
        """Add the cost of the block to a stage, also if the block is stopped.

        Args:
            stage: Its name.
            pipe: Forwards and backwards of its denoisers are counted, in samples.
            run: A new one, which counts.
        """
        stages, started = self._read(), time.perf_counter()
        before = stages.get(stage, {})
        entered = started

        def enter() -> None:
            summary = run.summary() | {"seconds": time.perf_counter() - started}
            peaks = [each for each in (before.get("peak_memory_bytes"), summary["peak_memory_bytes"]) if each]
            cost = {name: before.get(name, 0) + summary[name] for name in COSTS}
            write_json(self.path, stages | {stage: cost | {"peak_memory_bytes": max(peaks, default=None)}})

        def tick(*_: object) -> None:
            nonlocal entered
            if time.perf_counter() - entered >= INTERVAL:
                enter()
                entered = time.perf_counter()

        try:
            with ExitStack() as stack:
                for part in denoisers(pipe).values():
                    stack.enter_context(run.measure(part))
                    stack.callback(part.register_forward_hook(tick).remove)
                yield
        finally:
            enter()

    def cost(self, *stages: str) -> dict[str, float]:
        """The sum of some stages; a stage without an entry costs nothing."""
        entries = [each for name, each in self._read().items() if name in stages]
        return {name: sum(each[name] for each in entries) for name in COSTS}

    def peak_memory(self, *stages: str) -> int | None:
        """The largest peak of some stages in bytes; None if it is not known."""
        peaks = [each["peak_memory_bytes"] for name, each in self._read().items() if name in stages]
        return max((peak for peak in peaks if peak is not None), default=None)

    def _read(self) -> dict[str, dict]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
