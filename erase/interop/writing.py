"""``erase export``: write an artefact in the forms that other projects read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from erase.artifact import folder as artifact
from erase.artifact import guided
from erase.artifact.output import fix_modes, temporary_sibling
from erase.config import FORMS


_ADAPTER = "guider/pytorch_lora_weights.safetensors"


def write(folder: str | Path, out: str | Path, layout: str, *, base_model: str | None = None) -> Path:
    """Write an artefact in another form.

    ``pipeline`` and ``delta`` are our own two, folders that ``erase.load_erased`` opens. The others are one file each:
    ``esd`` holds the changed tensors of the UNet by name (safetensors; ``unet.load_state_dict(strict=False)`` of ESD
    and UCE reads it), ``concept-ablation`` the ``delta.bin`` that its code and DoCo's read, ``advunlearn`` the text
    encoder as AdvUnlearn's loaders expect it, ``peft`` the adapter of an UnGuide artefact, whose guidance stays behind.

    Args:
        folder: The artefact; it is checked first.
        out: The folder or file to make; it must not exist.
        layout: One of the forms above.
        base_model: Where the base is, if not where it was.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: The artefact or its base model does not exist.
        ValueError: The form is unknown or cannot hold what this artefact changes, or ``out`` exists.
        OSError: ``out`` could not be written.
    """
    folder, out = Path(folder), Path(out)
    if layout not in (*FORMS, *_WRITERS):
        raise ValueError(f"The format {layout!r} is unknown: choose one of {', '.join((*FORMS, *_WRITERS))}.")
    if layout in FORMS:
        return artifact.export(folder, out, layout, base_model=base_model)
    if out.exists() or out.is_symlink():
        raise ValueError(f"The output {out} exists and is kept: name a new file, or remove it first.")
    card = artifact.read_card(folder)
    artifact.verify(folder, card)
    if not card["changed_tensors"]:
        raise ValueError(
            f"{folder} leaves every weight as it is, so a file of the format {layout!r} would hold the base model, not "
            "erased: share the folder as it is."
        )
    with temporary_sibling(out) as partial:
        _WRITERS[layout](folder, card, base_model, partial / out.name)
        mode = partial / "mode"
        mode.touch()
        fix_modes(partial, like=mode)
        (partial / out.name).rename(out)
    return out


def _write_esd(folder: Path, card: dict[str, Any], base_model: str | None, path: Path) -> None:
    tensors = _load(folder, card, base_model, layout="esd", components=("unet",))
    save_file(_under("unet.", _changed(tensors, card)), path, metadata={"format": "pt"})


def _write_concept_ablation(folder: Path, card: dict[str, Any], base_model: str | None, path: Path) -> None:
    tensors = _load(folder, card, base_model, layout="concept-ablation", components=("unet", "text_encoder"))
    changed = _changed(tensors, card)
    parts = {"unet": _under("unet.", changed)}
    if _under("text_encoder.", changed):  # their code loads a text encoder strictly, so it is whole
        parts["text_encoder"] = _under("text_encoder.", tensors)
    torch.save(parts, path)


def _write_advunlearn(folder: Path, card: dict[str, Any], base_model: str | None, path: Path) -> None:
    tensors = _load(folder, card, base_model, layout="advunlearn", components=("text_encoder",))
    # text_encoder.text_model.*, which their loaders look for
    torch.save({name: tensor for name, tensor in tensors.items() if name.startswith("text_encoder.")}, path)


def _write_peft(folder: Path, card: dict[str, Any], base_model: str | None, path: Path) -> None:
    if card["form"] != "pipeline" or not guided.is_guided(folder):
        raise ValueError(
            f"{folder} changes weights and has no adapter, so it cannot be written as 'peft': choose another format."
        )
    shutil.copyfile(folder / _ADAPTER, path)


def _load(
    folder: Path, card: dict[str, Any], base_model: str | None, *, layout: str, components: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Return all tensors of the erased pipeline, or refuse one whose changes the layout would leave out."""
    foreign = [name for name in card["changed_tensors"] if name.partition(".")[0] not in components]
    if foreign:
        raise ValueError(
            f"{folder} changes {foreign[0]}, which the format {layout!r} cannot hold, so the result would not be "
            "erased: choose another format."
        )
    return artifact.named_tensors(artifact.load(folder, base_model=base_model))


def _changed(tensors: dict[str, torch.Tensor], card: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensors[name] for name in card["changed_tensors"]}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): each.contiguous() for name, each in tensors.items() if name.startswith(prefix)}


_WRITERS: dict[str, Callable[[Path, dict[str, Any], str | None, Path], None]] = {
    "esd": _write_esd,
    "concept-ablation": _write_concept_ablation,
    "advunlearn": _write_advunlearn,
    "peft": _write_peft,
}
