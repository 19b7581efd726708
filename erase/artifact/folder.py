"""The folder that an erasure leaves on disk: written whole or not at all, checked before it is loaded.

Two forms: ``pipeline`` is a standalone diffusers folder; ``delta`` holds only the changed tensors and no
``model_index.json``, so that nothing can load it un-erased. ``erasure.json`` says how it came about.
"""

import json
import platform
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, PreTrainedModel

from erase.artifact import guided
from erase.artifact.card import describe_weights, model_card, read_licence
from erase.artifact.output import check_out, fix_modes, list_files, temporary_sibling
from erase.artifact.record import CARD, SCHEMA_VERSION, read_card
from erase.concept import Concept
from erase.config import FORMS
from erase.hashing import hash_file, hash_json
from erase.model import base_model as base_models
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.training.run import Run


DELTA = "delta.safetensors"
LOG = "log.jsonl"
_UNHASHED = ("README.md", LOG)  # recorded, but they may be edited for publication: they take no part in loading
_HUB_PREFIX = "text_model."  # the hub's layout of CLIP text encoders; transformers 4 reads no other
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "accelerate", "huggingface_hub")


def save(
    pipe: DiffusionPipeline,
    out: Path,
    *,
    method: str,
    config: dict[str, Any],
    concept: Concept,
    retain: Sequence[str] | None,
    base: dict[str, str | None],
    run: Run | None,
    form: str = "pipeline",
) -> Path:
    """Save an erased pipeline with its record.

    Args:
        pipe: The erased pipeline.
        out: The folder to make; it may exist only if it is empty.
        method: The name of the erasing method.
        config: The resolved settings.
        concept: What was erased.
        retain: The retain prompts, which the settings may name by their file; None if nobody knows them.
        base: ``base_model.identity`` of what the pipeline was before.
        run: The run, for its seed, its cost and its log; None if the erasure was made elsewhere and nobody knows them.
        form: ``pipeline`` or ``delta``.

    Returns:
        ``out``.
    """
    facts = {
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "concept": json.loads(json.dumps(asdict(concept))),
        "config": config,
        "retain": None if retain is None else retain_record(retain),
        "base": base,
        "seed": run.seed if run else None,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "versions": versions(),
        "cost": run.summary() if run else None,
    }
    log = run.folder / LOG if run and run.folder else None
    return _write(pipe, out, facts, form=form, base_model=str(base["id"]), log=log)


def load(
    folder: Path, *, device: str = "cpu", dtype: torch.dtype | None = None, base_model: str | None = None
) -> DiffusionPipeline:
    """Load an artefact of either form after checking that it is complete and unaltered.

    Args:
        folder: What ``save`` or ``export`` made.
        device: Where the pipeline goes.
        dtype: The dtype it was saved in, unless given.
        base_model: Where the base of a delta is, if not where it was; its weights must be the same.

    Returns:
        The erased pipeline.
    """
    card = read_card(folder)
    verify(folder, card)
    wanted = dtype or base_models.pick_dtype(card["dtype"])
    if card["form"] == "pipeline":
        load_folder = guided.load if guided.is_guided(folder) else base_models.load_folder
        return load_folder(folder, device=device, dtype=wanted)
    given = base_model or card["base"]["id"]
    if base_models.identity(given)["hash"] != card["base"]["hash"]:
        raise ValueError(
            f"{folder} changes the base model {card['base']['id']!r}, but the weights of {given!r} are not those "
            "it was made from: pass the base model it was made from."
        )
    # the arithmetic of the run is repeated in its own dtype; casting comes after
    pipe = base_models.load(given, device="cpu", dtype=base_models.pick_dtype(card["dtype"]))
    _apply(pipe, load_file(folder / DELTA), folder)
    return pipe.to(device) if dtype is None else pipe.to(device, dtype, silence_dtype_warnings=True)


def export(folder: Path, out: Path, form: str, *, base_model: str | None = None) -> Path:
    """Write an artefact in the other form; its record goes along.

    Args:
        folder: The artefact.
        out: The folder to make.
        form: ``pipeline`` or ``delta``.
        base_model: Where the base is, if not where it was.

    Returns:
        ``out``.
    """
    card = read_card(folder)
    if form == card["form"]:
        raise ValueError(f"{folder} already has the form {form!r}: choose the other one, or copy the folder.")
    if card["form"] == "pipeline" and guided.is_guided(folder):
        raise ValueError(f"{folder} keeps the base's weights, so it has no form {form!r}: share it as it is.")
    check_out(out)
    base = base_model or card["base"]["id"]
    if base_models.identity(base)["hash"] != card["base"]["hash"]:
        raise ValueError(f"The weights of {base!r} are not those that {folder} was made from: pass its base model.")
    pipe = load(folder, base_model=base)
    rewritten = ("form", "weights", "changed_tensors", "files")
    facts = {name: value for name, value in card.items() if name not in rewritten}
    log = folder / LOG
    return _write(pipe, out, facts, form=form, base_model=base, log=log)


def verify(folder: Path, card: dict[str, Any]) -> None:
    """Refuse an artefact in which a file is missing, altered, or added where it could take part in loading."""
    expected = "model_index.json" if card["form"] == "pipeline" else DELTA
    if expected not in card["files"]:
        raise ValueError(f"{folder / CARD} does not list {expected}: the erasure is damaged, make it again.")
    for name, recorded in card["files"].items():
        path = folder / name
        if name in _UNHASHED:
            continue
        if not path.is_file():
            raise ValueError(f"{path} is missing although {CARD} lists it: the erasure is incomplete, make it again.")
        if hash_file(path) != recorded["sha256"]:
            raise ValueError(
                f"{path} is not the file that was saved: it was altered or damaged, make the erasure again."
            )
    components: list[str] = []
    if card["form"] == "pipeline":
        components = guided.component_names(folder) if guided.is_guided(folder) else base_models.component_names(folder)
    for path in list_files(folder):
        name = path.relative_to(folder).as_posix()
        takes_part = name.partition("/")[0] in components or name in ("model_index.json", DELTA, *guided.CODE)
        if takes_part and name not in card["files"]:
            raise ValueError(f"{path} was added after the erasure and could be loaded in its place: remove it.")


def retain_record(prompts: Sequence[str]) -> dict[str, Any]:
    """Return what is recorded of the retain prompts: their number, and a hash of their texts in their order.

    Example:
        >>> retain_record(["a dog"])["prompts"], retain_record(["a dog"]) == retain_record(["a cat"])
        (1, False)
    """
    return {"prompts": len(prompts), "sha256": hash_json(list(prompts))}


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    import erase

    return {"erase": erase.__version__, "python": platform.python_version()} | {
        name: version(name) for name in _PACKAGES
    }


def _write(
    pipe: DiffusionPipeline, out: Path, facts: dict[str, Any], *, form: str, base_model: str, log: Path | None
) -> Path:
    if form not in FORMS:
        raise ValueError(f"The form {form!r} is unknown: choose one of {', '.join(FORMS)}.")
    if form == "delta" and isinstance(pipe, guided.PIPELINES):
        raise ValueError("What keeps the base's weights has no form 'delta': save the form 'pipeline'.")
    check_out(out)
    base_folder = base_models.resolve(base_model)
    changed = changed_tensors(pipe, base_folder)
    with temporary_sibling(out) as partial:
        if form == "delta":
            save_file(changed, partial / DELTA, metadata={"format": "pt"})
        else:
            _write_pipeline(pipe, partial, base_folder)
        _check_written(partial, changed, form)
        if log is not None and log.is_file():
            shutil.copyfile(log, partial / LOG)
        names = sorted(changed)
        text = model_card(out.name, facts, form=form, changed=names, licence=read_licence(base_folder))
        (partial / "README.md").write_text(text, encoding="utf-8")
        card = {
            **facts,
            "form": form,
            "weights": describe_weights(names),
            "changed_tensors": names,
            "files": _list_hashes(partial),
        }
        # the last file: a folder without it is refused
        (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        fix_modes(partial, like=partial / CARD)
        partial.rename(out)
    return out


def _list_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in list_files(folder)
    }


def changed_tensors(pipe: DiffusionPipeline, base_folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors that differ from the base or are added to it, as ``component.name`` with the hub's names.

    There is none where the method acts during inference only.
    """
    if isinstance(pipe, guided.PIPELINES):
        with pipe.guider.detached(pipe.unet) if isinstance(pipe, UnGuidePipeline) else nullcontext():
            differing = _differing_tensors(pipe, base_folder)
        if differing:
            raise ValueError(f"{min(differing)} is not the base model's, which must be kept: pass the right base.")
        return guided.adapter_tensors(pipe) if isinstance(pipe, UnGuidePipeline) else {}
    changed = _differing_tensors(pipe, base_folder)
    if not changed:
        raise ValueError("No weight differs from the base model, so nothing is erased: nothing was saved.")
    broken = [name for name, tensor in changed.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{broken[0]} holds values that are not finite: nothing was saved; lower the learning rate.")
    return changed


def named_tensors(pipe: DiffusionPipeline) -> dict[str, torch.Tensor]:
    """Return every tensor of a pipeline as ``component.name`` with the hub's names; shared with it, not copied."""
    return {
        f"{component}.{_hub_name(module, name)}": tensor
        for component, module in _modules(pipe).items()
        for name, tensor in module.state_dict().items()
    }


def _differing_tensors(pipe: DiffusionPipeline, base_folder: Path) -> dict[str, torch.Tensor]:
    """Compare with the base, of which one component is in memory at a time."""
    changed: dict[str, torch.Tensor] = {}
    for component, module in _modules(pipe).items():
        if not (base_folder / component).is_dir():
            raise ValueError(f"The base model has no {component}, so it is not what this pipeline was made from.")
        base = (
            type(module)
            .from_pretrained(base_folder, subfolder=component, dtype=module.dtype, local_files_only=True)
            .state_dict()
        )
        state = module.state_dict()
        if state.keys() != base.keys():
            odd = min(state.keys() ^ base.keys())
            raise ValueError(
                f"The {component} and that of the base model differ in the tensor {odd!r}, so it carries adapters or "
                "another architecture: fuse and unload adapters before saving."
            )
        for name, tensor in state.items():
            value = tensor.detach().cpu().contiguous()
            if value.shape != base[name].shape:
                raise ValueError(f"{component}.{name} has another shape than in the base model: pass the right base.")
            if not torch.equal(value, base[name]):
                changed[f"{component}.{_hub_name(module, name)}"] = value
    return changed


def _modules(pipe: DiffusionPipeline) -> dict[str, ModelMixin | PreTrainedModel]:
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for name, module in modules.items():
        if not isinstance(module, ModelMixin | PreTrainedModel):
            raise ValueError(
                f"The {name} is a {type(module).__name__}, which diffusers cannot save: use a stock model."
            )
    return modules


def _hub_name(module: torch.nn.Module, name: str) -> str:
    flat = isinstance(module, CLIPTextModel) and not name.startswith(_HUB_PREFIX)
    return _HUB_PREFIX + name if flat else name


def _apply(pipe: DiffusionPipeline, delta: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy the changed tensors into the base pipeline; every one must find its place."""
    targets = named_tensors(pipe)
    for name, tensor in delta.items():
        target = targets.get(name)
        if target is None or target.shape != tensor.shape or target.dtype != tensor.dtype:
            raise ValueError(f"{folder / DELTA} holds {name}, which does not fit the base model: pass its base model.")
        with torch.no_grad():
            target.copy_(tensor)


def _write_pipeline(pipe: DiffusionPipeline, folder: Path, base_folder: Path) -> None:
    pipe.save_pretrained(folder, safe_serialization=True)
    for component, module in _modules(pipe).items():
        if isinstance(module, CLIPTextModel):
            _use_hub_names(folder / component, module)
    for tokenizer in base_folder.glob("tokenizer*"):
        # transformers 5 writes tokenizer.json only, and transformers 4 reads these two
        for name in ("vocab.json", "merges.txt"):
            if (tokenizer / name).is_file() and not (folder / tokenizer.name / name).exists():
                shutil.copyfile(tokenizer / name, folder / tokenizer.name / name)
    for path in [*folder.glob("*.json"), *folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json")]:
        _drop_origin(path)


def _use_hub_names(folder: Path, module: torch.nn.Module) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        renamed = {_hub_name(module, name): tensor for name, tensor in tensors.items()}
        if renamed.keys() != tensors.keys():
            del tensors
            save_file(renamed, path, metadata={"format": "pt"})


def _drop_origin(path: Path) -> None:
    """Remove the place on this machine that the base model was read from."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_written(folder: Path, changed: dict[str, torch.Tensor], form: str) -> None:
    """Read back every changed tensor: a component that was not written would load un-erased or not at all."""
    left = dict(changed)
    for path in folder.rglob("*.safetensors"):
        prefix = "" if form == "delta" else f"{path.parent.name}."
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if prefix + name in left and torch.equal(file.get_tensor(name), left[prefix + name]):
                    del left[prefix + name]
    if left:
        raise ValueError(f"{min(left)} was not written as it is in memory: nothing was saved; report this.")
