"""The body of ``erase run``: read the settings of every run before the first one starts, then one after another."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase.cli.quiet import quiet_libraries
from erase.config import RunConfig, parse_seeds, read_config, resolve, to_yaml


def run_all(
    sources: list[str],
    flags: dict[str, Any],
    concept: dict[str, Any],
    *,
    seeds: str | None = None,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Run every configuration; a mistake in the last one is found before the first one starts.

    Args:
        sources: Configuration files and ``key=value`` overrides, mixed.
        flags: Values of flags, by the names of ``RunConfig``; None is a flag that was not given.
        concept: The same for the fields of the concept.
        seeds: Seeds to run every configuration with, in the place of its own.
        dry_run: Only print what would be done.
        quiet: No progress bars.
    """
    # os.path.isfile takes a setting that is longer than any file name for what it is; Path.is_file raises
    overrides = [source for source in sources if "=" in source and not os.path.isfile(source)]
    names = [source for source in sources if source not in overrides]
    settings = {name: value for name, value in flags.items() if value is not None}
    settings["concept"] = {name: value for name, value in concept.items() if value is not None}
    wanted: list[str | None] = [*names] or [None]
    configs = [read_config(name, overrides=overrides, settings=settings) for name in wanted]
    if seeds is not None:
        if "seed" in settings or any(override.partition("=")[0].strip() == "seed" for override in overrides):
            raise ValueError(f"Both one seed and the seeds {seeds!r} are given: leave one of them out.")
        names = [name for name in names for _ in parse_seeds(seeds)]
        configs = [_with_seed(config, seed) for config in configs for seed in parse_seeds(seeds)]
    _check_outs(configs, names, needed=not dry_run)
    skip_complete = len(configs) > 1 or seeds is not None
    if not dry_run:
        _check_ahead(configs, skip_complete=skip_complete)
    quiet_libraries()
    for config in configs:
        if dry_run:
            _print_plan(config)
        else:
            _run_one(config, skip_complete=skip_complete, quiet=quiet)


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    if config.out is None:
        return resolve(replace(config, seed=seed))
    out = Path(config.out)  # without the slash that a shell puts at the end of a folder's name
    if out.name in ("", ".."):
        raise ValueError(f"The output {config.out!r} has no name that a seed could be added to: name a new folder.")
    return resolve(replace(config, seed=seed, out=f"{out}-seed{seed}"))


def _check_outs(configs: list[RunConfig], names: list[str], *, needed: bool) -> None:
    outs = [config.out for config in configs]
    if needed and None in outs:
        where = names[outs.index(None)] if names else "the settings"
        raise ValueError(f"No output folder is named in {where}: add --out FOLDER.")
    places = [Path(out).absolute() for out in outs if out is not None]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"Several runs would be saved in {place}: give each configuration its own 'out'.")


def _check_ahead(configs: list[RunConfig], *, skip_complete: bool) -> None:
    from erase.experiment import check_ahead

    for config in configs:
        check_ahead(config, skip_complete=skip_complete)


def _print_plan(config: RunConfig) -> None:
    from erase.plan import describe, make_plan

    plan = make_plan(config)
    print(f"{to_yaml(plan.config)}# Plan (nothing was done):\n{describe(plan)}")


def _run_one(config: RunConfig, *, skip_complete: bool, quiet: bool) -> None:
    from erase.experiment import is_complete, run_experiment

    if skip_complete and is_complete(config):
        print(f"Skipped: {config.out} already holds the result of these settings.")
        return
    run_experiment(config, quiet=quiet)
    print(f"Saved: {config.out}")
