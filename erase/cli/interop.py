"""The bodies of ``erase import`` and ``erase export``: other projects' files, in and out."""

from pathlib import Path
from typing import Annotated

import typer

from erase.cli.quiet import quiet_libraries


def import_(
    source: Annotated[Path, typer.Argument(help="File or folder that another project saved.")],
    base_model: Annotated[str, typer.Option(help="canvas, a diffusers folder, or a hub id: what it was made from.")],
    target: Annotated[list[str], typer.Option(help="What is said to be erased; repeat it for several.")],
    out: Annotated[Path, typer.Option(help="Folder to make for the result.")],
    anchor: Annotated[str, typer.Option(help="What the target is said to be mapped to.")] = "",
    kind: Annotated[str, typer.Option(help="style, object, person or explicit.")] = "style",
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="ldm, concept-ablation, esd, esd-modules, advunlearn, text-encoder, unguide, kohya or peft; found by "
            "the names in the file.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The method that made it, where the format does not tell.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    save: Annotated[
        str, typer.Option(help="pipeline: a folder that plain diffusers loads; delta: only what changed.")
    ] = "pipeline",
) -> None:
    """Turn what ESD, UCE, DoCo, Concept Ablation, AdvUnlearn, UnGuide or a LoRA trainer saved into our artefact."""
    from erase import interop
    from erase.concept import Concept

    quiet_libraries()
    concept = Concept(target=tuple(target), anchor=anchor, kind=kind)
    saved = interop.read(
        source, out, base_model=base_model, concept=concept, layout=format_, method=method, dtype=dtype, form=save
    )
    print(f"Saved: {saved}")


def export(
    folder: Annotated[Path, typer.Argument(help="What 'erase run' or 'erase import' made.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="pipeline: a folder that plain diffusers loads; delta: only what changed; or one file that others "
            "read: esd, concept-ablation, advunlearn or peft.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder or file to make.")],
    base_model: Annotated[
        str | None, typer.Option(help="Where the base model is, if not where it was.", show_default=False)
    ] = None,
) -> None:
    """Write an erased model in another form."""
    from erase import interop

    quiet_libraries()
    print(f"Saved: {interop.write(folder, out, format_, base_model=base_model)}")
