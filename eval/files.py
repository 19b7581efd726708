"""Files of an evaluation: what they are called, how they are written whole or not at all, and how they are hashed."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erase.hashing import hash_file, hash_file_once, hash_json


log = logging.getLogger(__name__)
sha256 = hash_file  # the name that manifests and suites have for it

# of a report
REPORT = "report.json"
HTML = "report.html"
MARKDOWN = "report.md"
SCORES = "scores.jsonl"
FEATURES = "features.safetensors"
# of a searched attack
ATTACK = "attack.json"
# of a folder of images
SETTINGS = "settings.json"
MANIFEST = "manifest.jsonl"
PROMPTS = "prompts.json"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a file beside ``path``, which becomes ``path`` once the block has written it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(path) as partial:
    ...     _ = partial.write_text("whole")
    >>> path.read_text(), [each.name for each in path.parent.iterdir()]
    ('whole', ['a.txt'])
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int = 2, allow_nan: bool = True) -> None:  # noqa: ANN401
    """Write what JSON holds into a file, whole or not at all.

    Raises:
        ValueError: A number is not finite, and ``allow_nan`` is False.
    """
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=allow_nan) + "\n")


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append one line of JSON per record, after removing a last line that a kill cut short."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)


def hash_weights(path: str | Path) -> str:
    """SHA-256 of the content of a file, or of all files in a folder; empty if there is nothing.

    A file that has not changed is not read again: a checkpoint has a gigabyte, and every model asks for it.
    """
    place = Path(path)
    if not str(path) or not place.exists():
        return ""  # the loader says what is missing
    files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file())
    return hash_json([(str(each.relative_to(place)), hash_file_once(each)) for each in files])


def find_weights(name: str, *, local_only: bool = False) -> Path | None:
    """Find the file of weights that a suite names.

    Args:
        name: A path, or a file on the hub: ``owner/name/file.pth``, or of one revision
            ``owner/name@revision/file.pth``. A path that exists comes first.
        local_only: Look for a file on the hub in the cache only.

    Returns:
        The path, also one that does not exist, which the loader refuses. None if the name is empty, or if a file on the
        hub is neither in the cache nor can be fetched.
    """
    if not name or Path(name).exists():
        return Path(name) if name else None
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        return Path(name)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    from erase.model.base_model import HUB_ID  # it imports torch, which a local file does not need

    match = HUB_ID.fullmatch(f"{owner}/{repository}")
    if match is None:
        return Path(name)
    try:
        return Path(hf_hub_download(match["id"], file, revision=match["revision"], local_files_only=local_only))
    except (OSError, ValueError, HfHubHTTPError) as error:
        if not local_only:
            log.warning(
                "The weights %s are neither a file on this machine nor one on the hub that is cached or can be fetched "
                "(%s); what needs them is not run.",
                name,
                type(error).__name__,
            )
        return None
