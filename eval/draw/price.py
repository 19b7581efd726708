"""How long drawing would take: the UNet's time for the batches that would be drawn, measured on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from erase.model import base_model
from erase.plan import duration, time_forward
from eval.draw.counts import Counts, Part
from eval.models.saved import SavedPipeline, find_saved


LARGE_BATCH_SECONDS = 10.0  # a plan does not try out a batch that takes longer


def describe_price(parts: Sequence[Part], *, device: str, dtype: str) -> str:
    """The time of drawing with one or several models, in words.

    Args:
        parts: What each model would draw; the label of a single model is not printed.
        device: Where to measure; ``auto`` takes a GPU if there is one.
        dtype: Of the models.
    """
    clock = ForwardClock(device=base_model.pick_device(device), dtype=dtype)
    seconds = [clock.price(part.model, part.counts) for part in parts]
    unknown = {
        part.label: part.counts.unknown or "not estimated for this model family"
        for part, value in zip(parts, seconds, strict=True)
        if value is None
    }
    if len(parts) == 1 and unknown:
        return next(iter(unknown.values()))
    total = sum(value or 0.0 for value in seconds)
    words = []
    if total:
        shares = [f"{part.label} {duration(value)}" for part, value in zip(parts, seconds, strict=True) if value]
        several = f" ({', '.join(shares)})" if len(parts) > 1 else ""
        words = [f"about {duration(total)} on {clock.device} in one process, by the UNet alone{several}"]
    return "; ".join([*words, *(f"{label}: {why}" for label, why in unknown.items())])


@dataclass(frozen=True, kw_only=True)
class ForwardClock:
    """Measures forwards of UNets; each architecture and batch is measured once."""

    device: str
    dtype: str
    measured: dict[tuple[str, int], float | None] = field(default_factory=dict)

    def price(self, model: str, counts: Counts) -> float | None:
        """The seconds that the UNet takes; None if they are not known beforehand.

        A forward is measured for one sample and for the largest batch, up to a limit of time. A batch between the two
        lies on the line between them. A batch above the limit takes as long per sample as the largest measured one.
        """
        pipe = find_saved(model)
        if counts.forwards is None or pipe is None:
            return None
        if not counts.calls:
            return 0.0
        single = self.forward(pipe, 1)
        if single is None:
            return None
        largest = min(max(counts.calls), max(1, int(LARGE_BATCH_SECONDS / single)))
        batch = self.forward(pipe, largest) or single
        slope = (batch - single) / (largest - 1) if largest > 1 else 0.0
        seconds = {
            samples: single + slope * (samples - 1) if samples <= largest else batch * samples / largest
            for samples in counts.calls
        }
        return counts.pixels * sum(seconds[samples] * times for samples, times in counts.calls.items())

    def forward(self, pipe: SavedPipeline, samples: int) -> float | None:
        """The seconds of one forward; None for UNets like SDXL's."""
        key = (pipe.unet(), samples)
        if key not in self.measured:
            self.measured[key] = time_forward(pipe.folder, device=self.device, dtype=self.dtype, samples=samples)
        return self.measured[key]
