"""The scores of a model: one record per image in ``scores.jsonl``, and arrays in ``features.safetensors``.

In a notebook, with ``pip install 'erase[notebook]'``::

    from eval.score.table import read_scores, to_pandas

    frame = to_pandas(read_scores(out))  # one frame for all models, with a column "model"
    frame[frame.role == "target"].groupby("model").judge_style.value_counts()
    frame.to_parquet("scores.parquet")
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from eval.files import FEATURES, SCORES, replacing


if TYPE_CHECKING:
    import pandas


class Table:
    """Rows with equal keys.

    >>> table = Table([{"style": "Photo", "seed": 1}, {"style": "Sepia", "seed": 1}])
    >>> len(table.where(lambda row: row["style"] == "Photo"))
    1
    >>> table["style"].tolist()
    ['Photo', 'Sepia']
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        """Copy the list, not the rows."""
        self.rows = list(rows)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """One column as an array."""
        return np.array([row[column] for row in self.rows])

    def where(self, condition: Callable[[dict[str, Any]], bool]) -> "Table":
        """The rows that fulfil a condition."""
        return Table([row for row in self.rows if condition(row)])


@dataclass(frozen=True)
class Scores:
    """What the scorers say about the images of one model.

    Attributes:
        records: One row per image.
        arrays: A scorer's array name -> (n, ...), in the order of the records.

    >>> scores = Scores(Table([{"seed": 1}, {"seed": 2}]), {"clip": np.eye(2)})
    >>> part = scores.take(np.array([1]))
    >>> part.records["seed"].tolist(), part.arrays["clip"].tolist()
    ([2], [[0.0, 1.0]])
    """

    records: Table
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def take(self, places: np.ndarray) -> "Scores":
        """The records at these places, with their rows of the arrays."""
        rows = [self.records.rows[int(place)] for place in places]
        index = np.asarray(places, dtype=np.intp)
        return Scores(Table(rows), {name: array[index] for name, array in self.arrays.items()})


def write_scores(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Write the scores of all models into a folder, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SCORES) as partial, partial.open("w", encoding="utf-8") as file:
        for model, each in scores.items():
            for row in each.records.rows:
                file.write(json.dumps({"model": model, **row}, ensure_ascii=False) + "\n")
    arrays = {f"{name}/{model}": array for model, each in scores.items() for name, array in each.arrays.items()}
    with replacing(folder / FEATURES) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        partial.chmod(0o644)  # safetensors writes files that only their owner may read


def read_scores(folder: Path) -> dict[str, Scores]:
    """Read what ``write_scores`` wrote: label -> scores, in the order in which they were written.

    Raises:
        FileNotFoundError: The folder holds no scores.
    """
    for name in (SCORES, FEATURES):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; score the images with `erase eval` first.")
    rows: dict[str, list[dict[str, Any]]] = {}
    with (folder / SCORES).open(encoding="utf-8") as file:  # splitlines would also split at separators in prompts
        for line in file:
            row = json.loads(line)
            rows.setdefault(row.pop("model"), []).append(row)
    arrays: dict[str, dict[str, np.ndarray]] = {model: {} for model in rows}
    for key, array in load_file(folder / FEATURES).items():
        name, _, model = key.partition("/")  # a label may hold a slash, the name of an array does not
        arrays[model][name] = array
    return {model: Scores(Table(own), arrays[model]) for model, own in rows.items()}


def to_pandas(scores: Mapping[str, Scores]) -> "pandas.DataFrame":
    """The records of all models in one frame whose first column is ``model``; lists stay lists in their columns.

    Raises:
        ValueError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ValueError("A frame needs pandas, which is not installed; run pip install 'erase[notebook]'.") from error
    return pandas.DataFrame([{"model": name, **row} for name, each in scores.items() for row in each.records.rows])
