"""A sheet of small pictures: a line for each prompt, a column for each way in which it was drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from eval.files import replacing


SIDE = 96  # pixels of a picture
FRAME = 3
LEFT, TOP = 230, 22  # room for the labels
LINES = 24


class Tile(NamedTuple):
    """One picture; a red frame says that it shows the target."""

    path: Path
    hit: bool


def write_sheet(path: Path, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[Tile]]]) -> Path:
    """Write the first 24 lines, each a label and a tile for each column, as one PNG."""
    shown = lines[:LINES]
    pitch = SIDE + 2 * FRAME + 2
    sheet = Image.new("RGB", (LEFT + pitch * len(columns), TOP + pitch * len(shown)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        pen.text((LEFT + pitch * (column + 0.5), TOP / 2), title.replace("_", " "), fill="black", anchor="mm")
    for line, (label, tiles) in enumerate(shown):
        pen.text((LEFT - 6, TOP + pitch * (line + 0.5)), label[:40], fill="black", anchor="rm")
        for column, tile in enumerate(tiles):
            place = (LEFT + pitch * column, TOP + pitch * line)
            with Image.open(tile.path) as file:
                picture = file.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            if tile.hit:
                pen.rectangle([place, (place[0] + SIDE + 2 * FRAME - 1, place[1] + SIDE + 2 * FRAME - 1)], fill="red")
            sheet.paste(picture, (place[0] + FRAME, place[1] + FRAME))
    with replacing(path) as partial:
        sheet.save(partial, format="PNG")
    return path
