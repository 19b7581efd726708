"""Contact sheets of the canvas: every cell of the grid in one labelled picture."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from erase.canvas.world import IMAGE_SIZE, OBJECT_NAMES, STYLE_NAMES


ZOOM = 2
MARGIN = (96, 22)  # pixels for the row and column labels


def contact_sheet(pictures: torch.Tensor, path: Path) -> Path:
    """Write uint8 pictures (styles * objects, S, S, 3), objects fastest, as one labelled PNG."""
    side = IMAGE_SIZE * ZOOM + 4
    size = (MARGIN[0] + side * len(OBJECT_NAMES), MARGIN[1] + side * len(STYLE_NAMES))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(OBJECT_NAMES):
        pen.text((MARGIN[0] + side * (column + 0.5), MARGIN[1] / 2), name, fill="black", anchor="mm")
    for row, name in enumerate(STYLE_NAMES):
        pen.text((MARGIN[0] - 6, MARGIN[1] + side * (row + 0.5)), name.replace("_", " "), fill="black", anchor="rm")
    for index, picture in enumerate(pictures.numpy()):
        row, column = divmod(index, len(OBJECT_NAMES))
        tile = Image.fromarray(picture).resize((IMAGE_SIZE * ZOOM,) * 2, Image.Resampling.NEAREST)
        sheet.paste(tile, (MARGIN[0] + side * column, MARGIN[1] + side * row))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
