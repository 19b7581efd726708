"""The model under test: the erased pipeline, what was erased from it, and the base that it came from."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline

from erase.concept import Concept
from erase.model import base_model


class Subject(NamedTuple):
    """What is evaluated; ``card`` is the content of ``erasure.json``, empty where there is none."""

    source: Path | DiffusionPipeline
    concept: Concept
    base: str | DiffusionPipeline
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """What to call it in a report."""
        return str(self.source) if isinstance(self.source, Path) else type(self.source).__name__

    @property
    def base_name(self) -> str:
        """What to call its base in a report."""
        return self.base if isinstance(self.base, str) else type(self.base).__name__


def find_source(name: str) -> Path:
    """The folder of a model that is named by its path, by a hub id, or as ``canvas``, the embedded base model.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it needs code that this package does not run.
    """
    if name == base_model.CANVAS or (not Path(name).exists() and base_model.HUB_ID.fullmatch(name)):
        return base_model.resolve(name)
    return Path(name)


def describe(
    source: Path | DiffusionPipeline, *, concept: Concept | None, base: str | DiffusionPipeline | None
) -> Subject:
    """Find out what was erased from what: from the arguments, or else from the artefact's ``erasure.json``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it is not known what was erased, or from what.
    """
    card = _read_card(source) if isinstance(source, Path) else {}
    if concept is None and card:
        given = card["concept"]
        concept = Concept(target=tuple(given["target"]), anchor=given["anchor"], kind=given["kind"])
    if card and not isinstance(base, DiffusionPipeline):
        recorded = card["base"]
        base = base or str(recorded["id"])
        found = base_model.identity(base)["hash"]
        if found != recorded["hash"]:
            raise ValueError(
                f"{source} was made from a base whose weights have the hash {recorded['hash']}, "
                f"but those of {base!r} have {found}; name the right base."
            )
    if concept is None or base is None:
        raise ValueError(
            f"{source} has no erasure.json that says what was erased from what; give the concept and the base "
            "(--target and --base-model)."
        )
    return Subject(source, concept, base, card)


def open_erased(
    subject: Subject, *, device: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> DiffusionPipeline:
    """Load the erased pipeline, or return the one that was given."""
    if isinstance(subject.source, DiffusionPipeline):
        return subject.source
    if subject.card:
        from erase.artifact.folder import load

        base = subject.base if isinstance(subject.base, str) else None
        return load(subject.source, device=device, dtype=dtype, base_model=base)
    if trust_remote_code:
        return DiffusionPipeline.from_pretrained(subject.source, dtype=dtype, trust_remote_code=True).to(device)
    return base_model.load_folder(subject.source, device=device, dtype=dtype)


def open_base(subject: Subject, *, device: str, dtype: torch.dtype) -> DiffusionPipeline:
    """Load the base, or return the one that was given."""
    if isinstance(subject.base, DiffusionPipeline):
        return subject.base
    return base_model.load(subject.base, device=device, dtype=dtype)


def storage(source: Path | DiffusionPipeline) -> int | None:
    """Bytes of the artefact's folder; None for a pipeline that is not on disk."""
    if isinstance(source, DiffusionPipeline):
        return None
    return sum(path.stat().st_size for path in source.rglob("*") if path.is_file())


def _read_card(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist; pass the folder that `erase run` wrote.")
    if not (folder / "erasure.json").exists():
        return {}
    from erase.artifact.folder import read_card

    return read_card(folder)
