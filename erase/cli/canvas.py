"""``erase canvas``: reproduce, measure and look at the embedded world."""

from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(help="Build, train, verify and look at the embedded canvas model.", no_args_is_help=True)
Data = Annotated[Path, typer.Option(help="Folder of the rendered pictures.")]
Seed = Annotated[int, typer.Option(help="Seed of the training or of the pictures.")]


@app.command()
def styles() -> None:
    """List the style names."""
    from erase.canvas.world import STYLE_NAMES

    print(*STYLE_NAMES, sep="\n")


@app.command()
def objects() -> None:
    """List the object names."""
    from erase.canvas.world import OBJECT_NAMES

    print(*OBJECT_NAMES, sep="\n")


@app.command()
def build(
    data: Data = Path("canvas"),
    emoji: Annotated[Path, typer.Option(help="Folder of the emoji packages; npm brings what is missing.")] = Path(
        "emoji"
    ),
    folders: Annotated[
        bool, typer.Option(help="Also write style/object/index.png, the layout of UnlearnCanvas.")
    ] = False,
) -> None:
    """Render the pictures of the world from openly licensed emoji artwork."""
    from erase.canvas import artwork, dataset

    artwork.fetch_packages(emoji)
    for split in dataset.SPLITS:
        path = dataset.build(split, emoji, data)
        if folders:
            dataset.write_folders(dataset.load(path), data / split)
    print(f"Rendered {', '.join(dataset.SPLITS)} into {data}")


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="vae, towers, judge, unet, gold-<concept>, or all.")] = "all",
    data: Data = Path("canvas"),
    work: Annotated[Path, typer.Option(help="Folder of the checkpoints; a training goes on from there.")] = Path(
        "canvas/work"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the finished weights.")] = Path("canvas/weights"),
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train the parts of the canvas, from the autoencoder to the gold models."""
    import torch

    from erase.canvas.build import STAGES, train_stage

    torch.set_num_threads(threads)
    for name in STAGES if stage == "all" else (stage,):
        seconds = train_stage(name, data, work, out, seed=seed)
        print(f"{name}: {seconds:.0f} s, weights in {out}")


@app.command()
def verify() -> None:
    """Measure the shipped canvas against the quality it promises; exit code 1 if a bar is not met."""
    from erase.canvas.verify import verify as measure
    from erase.prompts import data_folder

    lines = measure(data_folder("prompts") / "canvas_held_out.csv", print)
    missed = [line.name for line in lines if not line.met]
    print(
        f"{len(lines) - len(missed)} of {len(lines)} lines met" + (f"; not met: {', '.join(missed)}" if missed else "")
    )
    raise typer.Exit(1 if missed else 0)


@app.command()
def show(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("canvas.png"),
    gold: Annotated[str, typer.Option(help="Draw with the gold model without this concept instead of the base.")] = "",
    seed: Seed = 1,
) -> None:
    """Draw every cell of the grid and write a labelled contact sheet."""
    from erase.canvas import weights
    from erase.canvas.drawing import draw
    from erase.canvas.show import contact_sheet
    from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES, template

    pipe = weights.load_gold(gold) if gold else weights.load_base()
    prompts = [template(style, obj) for style in STYLE_NAMES for obj in OBJECT_NAMES]
    print(contact_sheet(draw(pipe, prompts, [seed] * len(prompts)), out))
