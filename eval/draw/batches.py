"""Rows -> batches that the pipeline draws in one call; a plan prices the same batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from eval.suite.rows import Row


class Batch(NamedTuple):
    """Rows of one guidance; the guidance is None where the pipeline decides."""

    rows: list[Row]
    guidance_scale: float | None

    @property
    def samples(self) -> int:
        """Samples of one forward: with classifier-free guidance, each row is in it twice."""
        return len(self.rows) * (2 if (self.guidance_scale or 0.0) > 1 else 1)


def split(rows: Sequence[Row], batch_size: int, guidance_scale: float | None) -> Iterator[Batch]:
    """Yield the batches; rows of one guidance keep their order.

    Args:
        rows: What to draw.
        batch_size: Rows per batch; the last batch of each guidance may have fewer.
        guidance_scale: Of rows without their own.

    >>> rows = [Row(prompt_id="a", prompt="a cat", seed=scale, guidance_scale=scale or None) for scale in (0, 1)]
    >>> [batch.samples for batch in split(rows, 4, 7.5)]
    [2, 1]
    """
    groups: dict[float | None, list[Row]] = {}
    for row in rows:
        scale = guidance_scale if row.guidance_scale is None else row.guidance_scale
        groups.setdefault(None if scale is None else float(scale), []).append(row)
    for scale, group in groups.items():
        for start in range(0, len(group), batch_size):
            yield Batch(group[start : start + batch_size], scale)
