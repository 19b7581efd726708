"""The flags of ``erase run``, and ``erase methods``."""

from typing import Annotated, Any

import typer

from erase.cli.options import DryRun, Quiet


def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml]... [KEY=VALUE]...",
            help="YAML files, or shipped ones such as esd/canvas-style, run one after another; and settings that "
            "change them, such as params.steps=200, or gradient_checkpointing=true for less memory and more time.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Erasing method; see 'erase methods'.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="What to erase; repeat it for several at once.")] = None,
    anchor: Annotated[str | None, typer.Option(help="What the target is mapped to; '' is the empty prompt.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="style, object, combination (of a style and an object), person or explicit.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="canvas, a diffusers folder, or a hub id.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder to make for the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="All randomness derives from it.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, such as 0-2 or 0,3,7: one result each, in OUT-seed0 and so on.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    save: Annotated[
        str | None, typer.Option(help="pipeline: a folder that plain diffusers loads; delta: only what changed.")
    ] = None,
    retain: Annotated[
        list[str] | None,
        typer.Option(help="Prompt, or CSV or text file of prompts, that must keep its meaning; repeatable."),
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Erase a concept and save the result."""
    from erase.cli.run import run_all

    flags: dict[str, Any] = {
        "method": method,
        "base_model": base_model,
        "out": out,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "save": save,
        "retain": retain or None,  # typer gives an empty list for a flag that is not there
    }
    concept = {"target": target or None, "anchor": anchor, "kind": kind}
    run_all(sources or [], flags, concept, seeds=seeds, dry_run=dry_run, quiet=quiet)


def list_methods() -> None:
    """List the erasing methods: name, what it does, paper."""
    from erase.config import available_methods, describe_method

    for name in available_methods():
        summary, paper = describe_method(name)
        print(f"{name}\n    {summary}\n    {paper}")
