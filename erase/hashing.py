"""Hashes of files and of plain data; imports nothing heavy."""

import hashlib
import json
from functools import cache
from pathlib import Path


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_file_once(path: Path) -> str:
    """Return the SHA-256 of a file without reading it again while its time and size stay the same.

    A base has gigabytes, and every model that was made from it asks for their hash.
    """
    state = path.stat()
    return _hash_state(path, state.st_mtime_ns, state.st_size)


def hash_json(value: object) -> str:
    """Return the SHA-256 of plain data; the order of keys makes no difference, and other objects count by their text.

    Example:
        >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _hash_state(path: Path, changed: int, size: int) -> str:
    return hash_file(path)
