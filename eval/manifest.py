"""The manifest of a folder of generated images: one JSON line per image, one file per rank."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.rows import Row


def rank_file(folder: Path, rank: int) -> Path:
    """Where one rank appends its records."""
    return folder / f"manifest-{rank}.jsonl"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of all ranks by row key; a last line that a kill cut short is left out.

    Raises:
        ValueError: a broken line anywhere else.
    """
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("manifest-*.jsonl")):
        text = path.read_text(encoding="utf-8")
        complete, _, _ = text.rpartition("\n")
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"Line {number} of {path} is not JSON; delete that line and run again.") from error
            records[record["key"]] = record
    return records


def append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records, after removing a line that a kill cut short."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)


def is_done(row: Row, record: dict[str, Any] | None, folder: Path) -> bool:
    """Whether the image of a row is on disk, unchanged, and was made from the same prompt and seed."""
    if record is None or record["prompt_text"] != row.prompt or record["seed"] != row.seed:
        return False
    path = folder / record["image_path"]
    return path.exists() and sha256(path) == record["image_sha256"]


def merge(folder: Path) -> Path:
    """Write ``manifest.jsonl`` from the files of all ranks, in an order that does not depend on the ranks."""
    path = folder / "manifest.jsonl"
    partial = folder / f"manifest.jsonl.{os.getpid()}.partial"
    records = read(folder)
    lines = (json.dumps(records[key], ensure_ascii=False) + "\n" for key in sorted(records))
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    return path


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Remember what the images of a folder were made with, or check that it is the same as before.

    Raises:
        ValueError: the folder holds images that were made with other settings.
    """
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            told = ", ".join(f"{key} {before.get(key)!r} instead of {settings[key]!r}" for key in changed)
            raise ValueError(f"{folder} holds images made with {told}; choose an empty folder.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"settings.json.{os.getpid()}.partial"
    partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
