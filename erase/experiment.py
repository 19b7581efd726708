"""One complete experiment: load the base model, erase, save; a killed one goes on where it stopped."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import psutil
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from erase.artifact import folder as artifact
from erase.artifact.output import check_out, check_room
from erase.config import RunConfig, load_method, method_config
from erase.model import base_model
from erase.model.diffusion import check_class, names_sdxl
from erase.training.run import POOL, Run


CHECKPOINT = "checkpoint.safetensors"
_SETTINGS = "settings.json"
_OWNER = "owner"
_OURS = (_SETTINGS, _OWNER, artifact.LOG, "checkpoint.partial", POOL, "pool.partial")


def run_experiment(
    config: RunConfig, *, pipe: DiffusionPipeline | None = None, quiet: bool = False
) -> DiffusionPipeline:
    """Erase a concept and, if ``config.out`` is given, save the result there.

    While it runs, the folder ``<out>.run`` holds its log and checkpoint. The same settings go on from there after a
    kill; other settings are refused. It goes away once the result is saved.

    Args:
        config: Checked settings, from ``read_config``.
        pipe: A loaded base model, which is changed in place; loaded from ``config.base_model`` if not given.
        quiet: No progress bars.

    Returns:
        The erased pipeline.
    """
    # refuses what does not fit together before a model is loaded, downloaded or hashed
    retain = config.retain_prompts()
    load_method(config.method).plan(pipe, config.to_concept(), retain, method_config(config))
    if pipe is None:
        check_family(config)
    config = replace(config, device=base_model.pick_device(config.device))
    if config.out is None:
        return _erase(config, retain, pipe=pipe, run=_run_of(config, None, quiet))
    out = Path(config.out)
    check_out(out)
    base = base_model.identity(config.base_model)
    check_room(out, artifact_bytes(config))
    with _work_folder(out, config, base) as work:
        run = _run_of(config, work, quiet)
        erased = _erase(config, retain, pipe=pipe, run=run)
        artifact.save(
            erased,
            out,
            method=config.method,
            config=_recorded(config),
            concept=config.to_concept(),
            retain=retain,
            base=base,
            run=run,
            form=config.save,
        )
        shutil.rmtree(work)
    return erased


def check_family(config: RunConfig, *, local_only: bool = False) -> None:
    """Refuse a base model that the method does not support by its model index alone, before its weights are needed.

    Args:
        config: Checked settings.
        local_only: Download nothing, not even the index of a hub model.
    """
    name = base_model.read_index(config.base_model, local_only=local_only)["_class_name"]
    check_class(getattr(diffusers, name))
    families = load_method(config.method).FAMILIES
    if "sdxl" not in families and names_sdxl(name):
        raise ValueError(
            f"The method {config.method!r} supports {', '.join(families)}, but {config.base_model!r} is a model of the "
            "family sdxl: choose another method."
        )


def check_ahead(config: RunConfig, *, skip_complete: bool) -> None:
    """Refuse what can be seen without weights.

    That is settings that do not fit together, a model that the method does not support, or an output in the way.

    Args:
        config: Checked settings.
        skip_complete: Whether an output of the same settings is not in the way.
    """
    method, retain = load_method(config.method), config.retain_prompts()
    method.plan(None, config.to_concept(), retain, method_config(config))
    check_family(config)
    if config.out is not None and not (skip_complete and has_result(config)):
        check_out(Path(config.out))


def has_result(config: RunConfig) -> bool:
    """Whether ``config.out`` holds the result of exactly these settings, from whatever base model has that name."""
    return _card_of_settings(config) is not None


def is_complete(config: RunConfig) -> bool:
    """Whether ``config.out`` already holds the result of exactly these settings from exactly this base model."""
    card = _card_of_settings(config)
    if card is None or card["base"] != base_model.identity(config.base_model):
        return False
    artifact.verify(Path(str(config.out)), card)
    return True


def _card_of_settings(config: RunConfig) -> dict[str, Any] | None:
    """Return the record in ``config.out`` if it is one of these settings and of the same retain prompts.

    A record of an earlier version has no hash of the prompts: if there are some, it is refused, as they may be others.
    """
    if config.out is None or not (Path(config.out) / artifact.CARD).is_file():
        return None
    card = artifact.read_card(Path(config.out))
    settings = _recorded(replace(config, device=base_model.pick_device(config.device)))
    if card["config"] != settings:
        return None
    retain = config.retain_prompts()
    if "retain" not in card and retain:
        raise ValueError(
            f"{config.out} does not record its retain prompts, so they may be others than those of now: choose another "
            "output, or remove it to erase again."
        )
    return card if card.get("retain", artifact.retain_record([])) == artifact.retain_record(retain) else None


def artifact_bytes(config: RunConfig) -> int:
    """Return about how much disk the result takes; a delta at most as much as the trained component."""
    counts = base_model.count_parameters(base_model.resolve(config.base_model))
    if config.save == "delta":
        changed = load_method(config.method).trains(method_config(config))
        counts = {changed: counts[changed]}
    return sum(counts.values()) * base_model.pick_dtype(config.dtype).itemsize


def _run_of(config: RunConfig, work: Path | None, quiet: bool) -> Run:
    dtype = base_model.pick_dtype(config.dtype)
    return Run(
        seed=config.seed,
        device=config.device,
        dtype=dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        folder=work,
        quiet=quiet,
    )


def _erase(config: RunConfig, retain: list[str], *, pipe: DiffusionPipeline | None, run: Run) -> DiffusionPipeline:
    if pipe is None:
        pipe = base_model.load(config.base_model, device=config.device, dtype=run.dtype)
    return load_method(config.method).erase(pipe, config.to_concept(), retain, method_config(config), run)


def _recorded(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the result.

    Where it is saved is not one of them, and may be private. Nor is gradient checkpointing, with which a run may go on
    that began without, or the other way round.
    """
    return {name: value for name, value in config.to_dict().items() if name not in ("out", "gradient_checkpointing")}


@contextmanager
def _work_folder(out: Path, config: RunConfig, base: dict[str, str | None]) -> Iterator[Path]:
    """Yield ``<out>.run``, new or left by a stopped run of the same settings; it stays if it holds a checkpoint."""
    work = out.with_name(f"{out.name}.run")
    settings = json.loads(json.dumps({"config": _recorded(config), "base": base}))
    if (work / CHECKPOINT).exists():
        _check_settings(work, settings)
    elif work.exists() and any(path.name not in _OURS for path in work.iterdir()):
        raise ValueError(f"{work} exists and is not the work folder of a run: remove it, or choose another output.")
    _take(work)
    if not (work / CHECKPOINT).exists():
        (work / artifact.LOG).unlink(missing_ok=True)  # of a run that was killed before there was anything to keep
        (work / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    try:
        yield work
    except SafetensorError as error:
        raise OSError(
            f"The checkpoint in {work} could not be written ({error}): free some space and run again."
        ) from error
    except KeyboardInterrupt as interrupt:
        kept = f"; {work} keeps what was done, and the same command goes on from there"
        raise KeyboardInterrupt(
            f"Interrupted before {out} was saved{kept if (work / CHECKPOINT).exists() else ''}."
        ) from interrupt
    finally:
        (work / _OWNER).unlink(missing_ok=True)
        if work.exists() and not (work / CHECKPOINT).exists():
            shutil.rmtree(work)


def _take(work: Path) -> None:
    """Mark the work folder as this process's own: two runs would write into each other's checkpoint."""
    owner = work / _OWNER
    if owner.is_file():
        pid, _, started = owner.read_text(encoding="utf-8").partition(" ")
        if pid.isdecimal() and psutil.pid_exists(int(pid)) and str(psutil.Process(int(pid)).create_time()) == started:
            raise ValueError(f"{work} is in use by the running process {pid}: wait for it, or choose another output.")
    work.mkdir(parents=True, exist_ok=True)
    owner.write_text(f"{os.getpid()} {psutil.Process().create_time()}", encoding="utf-8")


def _check_settings(work: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads((work / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{work / _SETTINGS} cannot be read: remove {work}, or choose another output.") from error
    if before != settings:
        raise ValueError(
            f"{work} holds an unfinished run with another {_difference(before, settings)}: repeat its settings to go "
            "on, remove it to start again, or choose another output."
        )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for section, values in now.items():
        for name, value in values.items():
            old = before.get(section, {}).get(name)
            if old != value:
                inner = [key for key in value if old.get(key) != value[key]] if isinstance(value, dict) else []
                return f"{name}.{inner[0]}" if inner else name
    return "version"
