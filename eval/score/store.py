"""Scores of images, kept beside the images: made once, and read by every later evaluation.

``<folder>/scores/<scorer>-<identity>.jsonl`` has one line per image and question, and grows by one batch at a time, so
that a kill loses the batch in progress. The identity is a hash of weights and settings: a changed scorer has a file of
its own. Arrays are written in base64: 2,048 numbers take 11 kB, a third more than in binary files, but a kill cannot
leave a half-readable file behind.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.files import append_lines, hash_json


ARRAY = "base64"  # the key that tells an array from another object
FORMAT = 2  # of a score in the file; part of the file's name


class Key(NamedTuple):
    """What a score is about; images of equal bytes have equal scores."""

    image_sha256: str  # of the file; empty for a score of the question alone
    question: str = ""  # a question, a prompt, the hash of an image to compare with


class Store:
    """The scores of one scorer about the images of one folder."""

    def __init__(self, folder: Path, scorer: str, identity: Mapping[str, Any] | None) -> None:
        """Read what is there.

        Args:
            folder: Of the images.
            scorer: Name of the file.
            identity: What decides a score beside its key; if None, nothing is kept on disk.
        """
        self.path: Path | None = None
        self.scores: dict[Key, Any] = {}
        if identity is not None:
            code = hash_json({"format": FORMAT, **identity})[:16]
            self.path = folder / "scores" / f"{scorer}-{code}.jsonl"
            self.scores = _read(self.path)

    def has(self, keys: Sequence[Key]) -> bool:
        """Whether all of these are scored."""
        return all(key in self.scores for key in keys)

    def add(self, keys: Sequence[Key], scores: Sequence[Any] | np.ndarray) -> None:
        """Keep the scores of those keys that have none yet: what JSON holds, arrays, or mappings of names to these."""
        fresh: dict[Key, Any] = {}
        for key, score in zip(keys, scores, strict=True):
            if key not in self.scores:
                fresh.setdefault(key, score)
        self.scores |= fresh
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self.path, [{**key._asdict(), "score": _pack(score)} for key, score in fresh.items()])


def score_once(
    store: Store, keys: Sequence[Key], score: Callable[[slice], Sequence[Any] | np.ndarray], *, batch_size: int
) -> list[Any]:
    """The scores of ``keys``, from the store as far as it has them.

    Batches are cut by place, and a batch with a missing score is made as a whole, so that each batch is that of an
    evaluation that never stopped: the last bit of a score depends on its batch.

    Args:
        store: Where scores are kept.
        keys: What to score, in order.
        score: Gives the scores of a slice of ``keys``.
        batch_size: Keys per call.
    """
    for start in range(0, len(keys), batch_size):
        chunk = slice(start, start + batch_size)
        if not store.has(keys[chunk]):
            store.add(keys[chunk], score(chunk))
    return [store.scores[key] for key in keys]


def _read(path: Path) -> dict[Key, Any]:
    """The scores of a file without lines that a kill cut short or that two processes wrote at once."""
    scores: dict[Key, Any] = {}
    if not path.exists():
        return scores
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):  # even if only this is missing: the next batch replaces the line
                continue
            try:
                record = json.loads(line, object_hook=_unpack)
            except ValueError:
                continue
            scores.setdefault(Key(record["image_sha256"], record["question"]), record["score"])
    return scores


def _pack(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    if isinstance(value, dict):
        return {name: _pack(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {ARRAY: data, "dtype": value.dtype.str, "shape": value.shape}
    return value


def _unpack(value: dict[str, Any]) -> Any:  # noqa: ANN401 - an array or the object itself
    if ARRAY not in value:
        return value
    return np.frombuffer(base64.b64decode(value[ARRAY]), value["dtype"]).reshape(value["shape"])
