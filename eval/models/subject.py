"""The model under test: the erased pipeline, what was erased from it, and the base that it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from erase.artifact.record import CARD, read_card
from erase.concept import Concept
from erase.model import base_model


if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class Subject(NamedTuple):
    """A model under test; ``card`` is the content of ``erasure.json``, empty if there is none."""

    label: str  # what the report calls it
    source: "Path | DiffusionPipeline"
    concept: Concept
    base: "str | DiffusionPipeline"
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """Where it was loaded from, for a report."""
        return str(self.source) if isinstance(self.source, Path) else type(self.source).__name__

    @property
    def base_name(self) -> str:
        """Where its base was loaded from, for a report."""
        return self.base if isinstance(self.base, str) else type(self.base).__name__


def find_source(name: str) -> Path:
    """The folder of a model, given by its path, by a hub id, or as ``canvas``, the embedded base model.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It needs code that this package does not run.
    """
    if name == base_model.CANVAS or (not Path(name).exists() and base_model.HUB_ID.fullmatch(name)):
        return base_model.resolve(name)
    return Path(name)


def describe(
    source: "Path | DiffusionPipeline",
    *,
    label: str = "erased",
    concept: Concept | None = None,
    base: "str | DiffusionPipeline | None" = None,
) -> Subject:
    """Find out what was erased from what: from the arguments, or else from the artefact's ``erasure.json``.

    Args:
        source: A folder or a loaded pipeline.
        label: What the report calls the model.
        concept: What was erased; if None, ``erasure.json`` says it.
        base: What it was made from; if None, ``erasure.json`` says it.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Nothing says what was erased or from what, or the base is not the one of ``erasure.json``.
    """
    card = _read_card(source) if isinstance(source, Path) else None
    if card and concept is None:
        own = card["concept"]
        concept = Concept(target=tuple(own["target"]), anchor=own["anchor"], kind=own["kind"])
    if card and (base is None or isinstance(base, str)):
        base = base or str(card["base"]["id"])
        _check_base(source, base, str(card["base"]["hash"]))
    if concept is None or base is None:
        raise ValueError(
            f"{source} has no {CARD} that says what was erased from what; give the concept and the base "
            "(--target and --base-model)."
        )
    return Subject(label, source, concept, base, card or {})


def open_erased(subject: Subject, *, device: str, dtype: "torch.dtype") -> "DiffusionPipeline":
    """Load the erased pipeline, or return the pipeline that the subject holds."""
    if not isinstance(subject.source, Path):
        return subject.source
    if subject.card:
        from erase.artifact.folder import load

        base = subject.base if isinstance(subject.base, str) else None
        return load(subject.source, device=device, dtype=dtype, base_model=base)
    return base_model.load_folder(subject.source, device=device, dtype=dtype)


def open_base(subject: Subject, *, device: str, dtype: "torch.dtype") -> "DiffusionPipeline":
    """Load the base, or return the pipeline that the subject holds."""
    if not isinstance(subject.base, str):
        return subject.base
    return base_model.load(subject.base, device=device, dtype=dtype)


def storage(source: "Path | DiffusionPipeline") -> int | None:
    """Bytes of the artefact's folder; None for a pipeline that is not on disk."""
    if not isinstance(source, Path):
        return None
    return sum(path.stat().st_size for path in source.rglob("*") if path.is_file())


def _read_card(folder: Path) -> dict[str, Any] | None:
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist; pass the folder that `erase run` wrote.")
    return read_card(folder) if (folder / CARD).exists() else None


def _check_base(source: "Path | DiffusionPipeline", base: str, recorded: str) -> None:
    weights = base_model.identity(base)["hash"]
    if weights != recorded:
        raise ValueError(
            f"{source} was made from a base whose weights have the hash {recorded}, "
            f"but those of {base!r} have {weights}; name the right base."
        )
