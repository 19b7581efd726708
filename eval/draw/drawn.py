"""The images of one model: where they lie, and which weights drew them."""

from dataclasses import dataclass
from pathlib import Path

from eval.models.fingerprint import Fingerprint


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The images of one model of an evaluation.

    Attributes:
        label: What the report calls the model.
        role: ``base``, ``gold`` or ``erased``.
        base: Label of its base; empty for a base.
        folder: Holds ``images``, the manifest and the settings.
        fingerprint: Of the pipeline that drew them.
        group: Models of one target and one base are one group; their rows are the same.
    """

    label: str
    role: str
    base: str
    folder: Path
    fingerprint: Fingerprint
    group: int = 0
