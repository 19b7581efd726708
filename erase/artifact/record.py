"""``erasure.json``: what an artefact says about itself, read without loading it or importing torch."""

import json
from pathlib import Path
from typing import Any

from erase.config import FORMS


SCHEMA_VERSION = 1
CARD = "erasure.json"
_REQUIRED = ("schema_version", "form", "method", "concept", "config", "base", "seed", "dtype", "cost", "files")


def read_card(folder: Path) -> dict[str, Any]:
    """Return ``erasure.json`` of an artefact, or refuse a folder that is none."""
    path = folder / CARD
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist: pass the folder of an erasure.")
    if not path.is_file():
        raise ValueError(f"{folder} has no {CARD}, so it is not a complete erasure: pass a folder that erase run made.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in _REQUIRED if name not in card]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not readable ({error}): make the erasure again.") from error
    if missing or card["schema_version"] != SCHEMA_VERSION or card["form"] not in FORMS:
        raise ValueError(f"{path} is not of version {SCHEMA_VERSION} of this format: use the erase that made it.")
    return card
