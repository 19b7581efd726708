"""The manifest of a folder of images: one JSON line per image, one file per process."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.files import MANIFEST, SETTINGS, sha256, write_json, write_text
from eval.suite.rows import Row


Record = dict[str, Any]  # one line of the manifest


def rank_file(folder: Path, rank: int) -> Path:
    """Where one process appends its records."""
    return folder / f"manifest-{rank}.jsonl"


def read(folder: Path) -> dict[str, Record]:
    """The records of all processes by row key; a last line that a kill cut short is left out.

    If an image was drawn twice, by two processes or because it was lost, the record of the file on disk counts.

    Raises:
        ValueError: Any other line is broken.
    """
    records: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("manifest-*.jsonl")):
        # by bytes and by the line feed alone: a kill may cut a character, and a prompt may hold other line separators
        complete, _, _ = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(complete.split(b"\n") if complete else [], start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"Line {number} of {path} is not JSON; delete that line and run again.") from error
            records.setdefault(record["key"], []).append(record)
    return {key: _of_the_file(several, folder) for key, several in records.items()}


def missing(folder: Path, rows: Sequence[Row], guidance_scale: float | None) -> list[Row]:
    """The rows without an image on disk that is theirs; see ``is_done``."""
    records = read(folder)
    return [row for row in rows if not is_done(row, records.get(row.key), folder, guidance_scale)]


def is_done(row: Row, record: Record | None, folder: Path, guidance_scale: float | None) -> bool:
    """Whether the image of a row is on disk, unchanged, and drawn from the same prompt, seed and guidance.

    Args:
        row: The row.
        record: What the manifest says about it, if anything.
        folder: Of the images.
        guidance_scale: Of rows without their own.
    """
    if record is None or _changed(row, record, guidance_scale):
        return False
    path = folder / record["image_path"]
    return path.exists() and sha256(path) == record["image_sha256"]


def merge(folder: Path) -> Path:
    """Write ``manifest.jsonl`` from the files of all processes, in an order that does not depend on the processes.

    If two processes finish at the same time, one may replace what the other merged from more records. So each looks
    again until nothing has changed.
    """
    path = folder / MANIFEST
    records: dict[str, Record] | None = None
    while records != (now := read(folder)):
        records = now
        write_text(path, "".join(json.dumps(records[key], ensure_ascii=False) + "\n" for key in sorted(records)))
    return path


def changed_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """In which of these settings the images of a folder differ, in words; empty if in none, or if it has no images."""
    path = folder / SETTINGS
    if not path.exists():
        return ""
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in settings if before.get(key) != settings[key]]
    words = ", ".join(f"{key} {before.get(key)!r} instead of {settings[key]!r}" for key in changed)
    return f"made with {words}" if words else ""


def changed_prompt(folder: Path, rows: Iterable[Row], guidance_scale: float | None) -> str:
    """Which image of a folder has the name of one of these rows and another prompt or guidance; empty if none.

    Args:
        folder: Of the images.
        rows: What is asked for.
        guidance_scale: Of rows without their own.
    """
    records = read(folder)
    for row in rows:
        if row.key in records and (changed := _changed(row, records[row.key], guidance_scale)):
            name, old, new = changed
            return f"of other prompts, with the {name} {old!r} instead of {new!r} in row {row.prompt_id!r}"
    return ""


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down how the images of a folder are drawn, or check that it is as before.

    Raises:
        ValueError: The folder holds images of other settings.
    """
    if words := changed_settings(folder, settings):
        raise ValueError(f"{folder} holds images {words}; choose an empty folder.")
    if not (folder / SETTINGS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)


def _of_the_file(records: list[Record], folder: Path) -> Record:
    """The last record that describes the file on disk, or else the last one."""
    if len({record["image_sha256"] for record in records}) == 1:
        return records[-1]
    path = folder / records[-1]["image_path"]
    on_disk = sha256(path) if path.exists() else ""
    return next((record for record in reversed(records) if record["image_sha256"] == on_disk), records[-1])


def _changed(row: Row, record: Record, guidance_scale: float | None) -> tuple[str, Any, Any] | None:
    """How a record differs from a row: the name, the recorded value, and the value that is asked for."""
    wanted = guidance_scale if row.guidance_scale is None else row.guidance_scale
    asked = {"prompt_text": ("prompt", row.prompt), "seed": ("seed", row.seed), "cfg": ("guidance_scale", wanted)}
    differing = ((name, record[key], new) for key, (name, new) in asked.items() if record[key] != new)
    return next(differing, None)
