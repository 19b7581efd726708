"""Openly licensed emoji artwork as transparent sprites, read from the npm packages that carry it."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from PIL import Image

from erase.canvas.world import OBJECTS


SPRITE_SIZE = 96  # pixels
# vendor -> (npm package, path of a code point inside the package)
PACKAGES = {
    "noto": ("emoji-datasource-google@16.0.0", "package/img/google/64/{}.png"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/{}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/{}.webp"),
}


def fetch_packages(folder: Path) -> dict[str, Path]:
    """Bring the emoji packages into ``folder`` with ``npm pack``, keeping what is already there.

    Raises:
        FileNotFoundError: npm is not installed and a package is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for vendor, (package, _) in PACKAGES.items():
        path = folder / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
        if not path.exists():
            npm = shutil.which("npm")
            if npm is None:
                raise FileNotFoundError(
                    f"{path} does not exist and npm is not installed; install npm or put {package} there."
                )
            subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        paths[vendor] = path
    return paths


def load_sprites(folder: Path) -> dict[str, list[Image.Image]]:
    """Read every drawing of every object: object -> RGBA sprites of ``SPRITE_SIZE`` pixels, vendor by vendor."""
    sprites: dict[str, list[Image.Image]] = {obj: [] for obj in OBJECTS}
    for vendor, path in fetch_packages(folder).items():
        member = PACKAGES[vendor][1]
        wanted = {member.format(code): obj for obj, words in OBJECTS.items() for code in words.drawings}
        found: dict[str, Image.Image] = {}
        with tarfile.open(path) as archive:
            for entry in archive:
                if entry.name in wanted:
                    data = archive.extractfile(entry)
                    if data is not None:
                        found[entry.name] = Image.open(io.BytesIO(data.read())).convert("RGBA")
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise FileNotFoundError(f"{path} has no {missing[0]}; delete it so that the right version is fetched.")
        for name, obj in wanted.items():
            sprites[obj].append(_trim(found[name]))
    return sprites


def _trim(sprite: Image.Image) -> Image.Image:
    """Crop to the visible part and centre it on a square, so that every drawing fills its sprite."""
    sprite = sprite.crop(sprite.getchannel("A").getbbox())
    side = max(sprite.size)
    square = Image.new("RGBA", (side, side))
    square.paste(sprite, ((side - sprite.width) // 2, (side - sprite.height) // 2))
    return square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
