"""What scorers said about images, kept beside the images: scored once, read by every later evaluation.

``<folder>/scores/<scorer>-<identity>.jsonl`` has one line per image, or per image and question, and grows by one batch
at a time, so that a kill loses the batch in progress. The identity is a hash of weights and settings: a changed scorer
has a file of its own. Arrays stand in base64 of their bytes: features of 2,048 numbers take 11 kB, which is a third
more than in binary files, and is one file that a kill cannot leave half readable in the place of one per batch.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.draw import manifest
from eval.models.fingerprint import hash_json


ARRAY = "base64"  # the key by which an array is told from another object


class Key(NamedTuple):
    """What a score is about; images of equal bytes have equal scores."""

    image_sha256: str  # of the file; empty for a score of the question alone
    question: str = ""  # a question, a prompt, the hash of an image to compare with


def score_once(
    folder: Path,
    scorer: str,
    identity: Mapping[str, Any] | None,
    keys: Sequence[Key],
    score: Callable[[slice], Sequence[Any] | np.ndarray],
    *,
    batch_size: int,
) -> list[Any]:
    """The scores of ``keys``, of which those that ``folder`` knows are read and the others are made and kept.

    Batches are cut by place, and one of which any score is missing is made as a whole, so that each batch is that of
    an evaluation that never stopped: the last bit of a score depends on its batch.

    Args:
        folder: of the images.
        scorer: name of the file.
        identity: what decides a score beside its key; None where that is not known, and nothing is kept.
        keys: what to score, in order.
        score: gives the scores of a slice of ``keys``: what JSON holds, arrays, or mappings of names to these.
        batch_size: keys per call.

    Returns:
        One score per key.
    """
    known: dict[Key, Any] = {}
    path = None
    if identity is not None:
        path = folder / "scores" / f"{scorer}-{hash_json(identity)[:16]}.jsonl"
        known = _read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(keys), batch_size):
        chunk = slice(start, start + batch_size)
        if all(key in known for key in keys[chunk]):
            continue
        fresh: dict[Key, Any] = {}
        for key, value in zip(keys[chunk], score(chunk), strict=True):
            if key not in known:
                fresh.setdefault(key, value)
        known |= fresh
        if path is not None:
            manifest.append(path, [{**key._asdict(), "score": _pack(value)} for key, value in fresh.items()])
    return [known[key] for key in keys]


def image_keys(hashes: Sequence[str], questions: Sequence[str] | None = None) -> list[Key]:
    """The keys of images by the SHA-256 of their files, each with a question if there are any.

    >>> image_keys(["a", "b"], ["x", "y"])[1]
    Key(image_sha256='b', question='y')
    """
    asked = [""] * len(hashes) if questions is None else questions
    return [Key(*each) for each in zip(hashes, asked, strict=True)]


def _read(path: Path) -> dict[Key, Any]:
    """What is known; lines that a kill cut short, or that two processes wrote at once, are scored again."""
    known: dict[Key, Any] = {}
    if not path.exists():
        return known
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):  # even if all but that is there: the next batch replaces it
                continue
            try:
                record = json.loads(line, object_hook=_unpack)
            except ValueError:
                continue
            known.setdefault(Key(record["image_sha256"], record["question"]), record["score"])
    return known


def _pack(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    if isinstance(value, dict):
        return {name: _pack(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {ARRAY: data, "dtype": value.dtype.str, "shape": value.shape}
    return value


def _unpack(found: dict[str, Any]) -> Any:  # noqa: ANN401 - an array or the object itself
    if ARRAY not in found:
        return found
    return np.frombuffer(base64.b64decode(found[ARRAY]), found["dtype"]).reshape(found["shape"])
