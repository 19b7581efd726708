"""``erase import``: read what another project published, apply it to its base model, and save our artefact.

Whatever does not fit the base completely is refused, and nothing is written: a file that is half applied would load
without an error and not be erased.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from erase.artifact import folder as artifact
from erase.artifact.card import UNKNOWN
from erase.artifact.output import check_out
from erase.concept import Concept
from erase.hashing import hash_file
from erase.interop.layouts import LAYOUTS, Changes, LowRank, is_plain, sniff
from erase.interop.source import Source, open_source
from erase.model import base_model as base_models
from erase.model.diffusion import family


def read(
    source: str | Path,
    out: str | Path,
    *,
    base_model: str,
    concept: Concept,
    layout: str | None = None,
    method: str | None = None,
    dtype: str = "float32",
    form: str = "pipeline",
) -> Path:
    """Save as our artefact what another project's file makes of a base model.

    Args:
        source: A file or a folder of one of the layouts in ``erase.interop.layouts``.
        out: The folder to make.
        base_model: ``canvas``, a diffusers folder or a hub id: the model that the file was made from.
        concept: What is said to be erased; no file states it in a way that could be checked.
        layout: The layout that the file must have; found by its names if not given.
        method: The method that made it, for the record, where the layout leaves it open.
        dtype: The precision of the result: ``float32``, ``float16`` or ``bfloat16``.
        form: ``pipeline`` or ``delta``.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: The source or the base model does not exist.
        ValueError: The layout is unknown or another one, a name or a shape does not fit the base, the file changes
            nothing, or ``out`` holds something.
    """
    out = Path(out)
    check_out(out)
    wanted = base_models.pick_dtype(dtype)
    opened = open_source(Path(source))
    found = _check_layout(opened, layout)
    made_by = _check_method(found, method)
    pipe = base_models.load(base_model, device="cpu", dtype=wanted)
    if (model_family := family(pipe)) not in LAYOUTS[found].families:
        raise ValueError(
            f"The layout {found!r} exists for {', '.join(LAYOUTS[found].families)}, but {base_model!r} is a model of "
            f"the family {model_family}: pass the base model that {opened.path} was made from."
        )
    base = artifact.named_tensors(pipe)
    changes = LAYOUTS[found].read(opened, pipe, base)
    apply(changes, base, path=opened.path)
    return artifact.save(
        pipe,
        out,
        method=made_by,
        config={"imported": _record(opened, found, changes, concept)},
        concept=concept,
        retain=None,
        base=base_models.identity(base_model),
        run=None,
        form=form,
    )


def apply(changes: Changes, base: Mapping[str, torch.Tensor], *, path: Path) -> None:
    """Write the changes into the base model's tensors, all of them or none.

    A value that equals the base's in the file's precision or in the base's is no change: files in half precision
    hold rounded copies of what they did not train.

    Args:
        changes: What a file holds.
        base: The tensors of the loaded base model by name, which are written.
        path: The file, for messages.

    Raises:
        ValueError: A name is not among the base's, a shape differs, or nothing changes.
    """
    values = {name: _fitting(name, value, base, path) for name, value in changes.weights.items()}
    for name, low_rank in changes.low_rank.items():
        values[name] = _fused(name, low_rank, base, path)
    changed = {
        name: value
        for name, value in values.items()
        if not torch.equal(value, base[name].to(value.dtype))
        and not torch.equal(value.to(base[name].dtype), base[name])
    }
    if not changed:
        raise ValueError(
            f"{path} changes nothing in the base model, so nothing would be erased: pass the file of an erased model, "
            "or the base model that it was made from."
        )
    with torch.no_grad():
        for name, value in changed.items():
            base[name].copy_(value)


def _check_layout(source: Source, layout: str | None) -> str:
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"The format {layout!r} is unknown: choose one of {', '.join(LAYOUTS)}.")
    if layout is not None and LAYOUTS[layout].matches(source.content):
        return layout
    found = sniff(source)
    if layout is not None:
        raise ValueError(f"{source.path} has not the format {layout!r} but {found!r}: pass that one, or another file.")
    return found


def _check_method(layout: str, method: str | None) -> str:
    known = LAYOUTS[layout].method
    if method and known and method != known:
        raise ValueError(f"The format {layout!r} is written by the method {known!r} only, not by {method!r}: drop it.")
    return known or method or UNKNOWN


def _fitting(name: str, value: object, base: Mapping[str, torch.Tensor], path: Path) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{path} holds {name!r} as a {type(value).__name__}, but a tensor is needed: pass weights only."
        )
    if not is_plain(value):
        raise ValueError(
            f"{path} holds {name!r} as a tensor of {value.dtype}, {value.layout} on {value.device}, but plain floating "
            "point numbers are needed: pass weights that are neither quantised nor sparse."
        )
    if name not in base:
        raise ValueError(
            f"{path} holds {name!r}, which the base model does not have: pass the base model that it was made from."
        )
    if value.shape != base[name].shape:
        raise ValueError(
            f"{path} holds {name!r} with the shape {tuple(value.shape)}, but the base model's has "
            f"{tuple(base[name].shape)}: pass the base model that it was made from."
        )
    return value


def _fused(name: str, low_rank: LowRank, base: Mapping[str, torch.Tensor], path: Path) -> torch.Tensor:
    """Return W + scale * up @ down in fp32."""
    down, up = low_rank.down.float().flatten(1), low_rank.up.float().flatten(1)  # (r, in * height * width), (out, r)
    if name not in base:
        raise ValueError(
            f"{path} has a LoRA of {name!r}, which the base model does not have: pass the base model that it was made "
            "from."
        )
    weight = base[name].float()
    if up.shape[1] != down.shape[0] or (up.shape[0], down.shape[1]) != weight.flatten(1).shape:
        raise ValueError(
            f"{path} has a LoRA of {name!r} with the shapes {tuple(low_rank.up.shape)} and "
            f"{tuple(low_rank.down.shape)}, which do not fit the base model's {tuple(weight.shape)}: pass the base "
            "model that it was made from."
        )
    return weight + low_rank.scale * (up @ down).view(weight.shape)


def _record(source: Source, layout: str, changes: Changes, concept: Concept) -> dict[str, Any]:
    """Return what is known of the origin, and what nobody wrote down."""
    missing = ["seed", "cost", "versions", "retain"]
    missing += [] if changes.settings else ["settings"]
    missing += [] if concept.anchor else ["anchor"]  # an empty one is not known to be the unconditional prompt
    return {
        "file": source.path.name,
        "sha256": hash_file(source.path),
        "layout": layout,
        "settings": changes.settings,
        "notes": changes.notes,
        "not_recorded": missing,
    }
