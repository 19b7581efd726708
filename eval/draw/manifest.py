"""The manifest of a folder of generated images: one JSON line per image, one file per rank."""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from eval.files import write_json, write_text
from eval.suite.rows import Row


SETTINGS = "settings.json"  # what the images of a folder were made with


def rank_file(folder: Path, rank: int) -> Path:
    """Where one rank appends its records."""
    return folder / f"manifest-{rank}.jsonl"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of all ranks by row key; a last line that a kill cut short is left out.

    Where an image was made twice, by different ranks or because it was lost, the record of the file on disk counts.

    Raises:
        ValueError: a broken line anywhere else.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("manifest-*.jsonl")):
        # by bytes and by the line feed alone: a kill may cut a character, and a prompt may hold other line separators
        complete, _, _ = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(complete.split(b"\n") if complete else [], start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"Line {number} of {path} is not JSON; delete that line and run again.") from error
            found.setdefault(record["key"], []).append(record)
    return {key: _of_the_file(records, folder) for key, records in found.items()}


def _of_the_file(records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The last record that describes the file on disk, or else the last one."""
    if len({record["image_sha256"] for record in records}) == 1:
        return records[-1]
    path = folder / records[-1]["image_path"]
    on_disk = sha256(path) if path.exists() else ""
    return next((record for record in reversed(records) if record["image_sha256"] == on_disk), records[-1])


def append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records, after removing a line that a kill cut short."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)


def is_done(row: Row, record: dict[str, Any] | None, folder: Path, guidance_scale: float | None) -> bool:
    """Whether the image of a row is on disk, unchanged, and was made from the same prompt, seed and guidance.

    Args:
        row: the row.
        record: what the manifest says about it, if anything.
        folder: of the images.
        guidance_scale: of rows that do not bring their own.
    """
    if record is None or _changed(row, record, guidance_scale):
        return False
    path = folder / record["image_path"]
    return path.exists() and sha256(path) == record["image_sha256"]


def merge(folder: Path) -> Path:
    """Write ``manifest.jsonl`` from the files of all ranks, in an order that does not depend on the ranks.

    Of ranks that finish at the same time, one may replace what another merged from more records; so each looks again.
    """
    path = folder / "manifest.jsonl"
    records: dict[str, dict[str, Any]] | None = None
    while records != (now := read(folder)):
        records = now
        write_text(path, "".join(json.dumps(records[key], ensure_ascii=False) + "\n" for key in sorted(records)))
    return path


def changed_settings(folder: Path, settings: dict[str, Any]) -> str:
    """In which of these settings the images of a folder differ, in words; empty where in none, or where it has none."""
    path = folder / SETTINGS
    if not path.exists():
        return ""
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in settings if before.get(key) != settings[key]]
    told = ", ".join(f"{key} {before.get(key)!r} instead of {settings[key]!r}" for key in changed)
    return f"made with {told}" if told else ""


def changed_prompt(folder: Path, rows: Iterable[Row], guidance_scale: float | None) -> str:
    """Which image of a folder has the name of one of these rows and another prompt or guidance; empty where none.

    Args:
        folder: of the images.
        rows: that are asked for.
        guidance_scale: of rows that do not bring their own.
    """
    records = read(folder)
    for row in rows:
        if row.key in records and (changed := _changed(row, records[row.key], guidance_scale)):
            name, old, new = changed
            return f"of other prompts, with the {name} {old!r} instead of {new!r} in row {row.prompt_id!r}"
    return ""


def _changed(row: Row, record: dict[str, Any], guidance_scale: float | None) -> tuple[str, Any, Any] | None:
    """In what a record differs from a row: the name, what is recorded, and what is asked for."""
    wanted = guidance_scale if row.guidance_scale is None else row.guidance_scale
    asked = {"prompt_text": ("prompt", row.prompt), "seed": ("seed", row.seed), "cfg": ("guidance_scale", wanted)}
    differing = ((name, record[key], new) for key, (name, new) in asked.items() if record[key] != new)
    return next(differing, None)


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Remember what the images of a folder were made with, or check that it is the same as before.

    Raises:
        ValueError: the folder holds images that were made with other settings.
    """
    if told := changed_settings(folder, settings):
        raise ValueError(f"{folder} holds images {told}; choose an empty folder.")
    if not (folder / SETTINGS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)


def hash_weights(path: str) -> str:
    """One SHA-256 of the content of a file, or of all files in a folder; empty where there is nothing.

    What has not changed since is not read again: a checkpoint has a gigabyte, and every model asks for it.
    """
    if not path or not Path(path).exists():
        return ""  # who loads it says what is missing
    place = Path(path)
    files = [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file())
    found = [(str(one.relative_to(place)), _hash_once(one, *_state(one))) for one in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    return path.stat().st_mtime_ns, path.stat().st_size


@cache
def _hash_once(path: Path, changed: int, size: int) -> str:
    """Hash a file; the other two tell one state of it from another."""
    return sha256(path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
