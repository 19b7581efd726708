"""Which images belong together in the bootstrap: those of one prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def clusters(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The number of the prompt of each record, (n,) int.

    Two ids with one text, white space aside, are one prompt: their images are not independent. Prompts are numbered in
    the order of the smallest id of each.

    >>> ids, texts = ("b", "a", "c", "b"), ("a cat", "a dog", "a  cat ", "a cat")
    >>> clusters([{"prompt_id": name, "prompt": text} for name, text in zip(ids, texts)]).tolist()
    [1, 0, 1, 1]
    """
    texts: dict[str, str] = {}  # text as it stands -> with its white space folded
    smallest: dict[str, str] = {}
    for record in records:
        text = texts.setdefault(record["prompt"], " ".join(record["prompt"].split()))
        smallest[text] = min(smallest.get(text, record["prompt_id"]), record["prompt_id"])
    numbers = {text: number for number, text in enumerate(sorted(smallest, key=smallest.__getitem__))}
    return np.array([numbers[texts[record["prompt"]]] for record in records], int)
