"""The tidy table of scores: one row per image of each model, kept in ``scores.jsonl``.

In a notebook, with ``pip install 'erase[notebook]'``::

    from eval.score.table import read_scores, to_pandas

    scores = to_pandas(read_scores(out / "scores.jsonl"))  # one frame for all models, with a column "model"
    scores[scores.role == "target"].groupby("model").judge_style.value_counts()
    scores.to_parquet("scores.parquet")
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.files import replacing


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

    def to_pandas(self) -> "pandas.DataFrame":
        """The rows as a frame, one column per key; scores of all styles and objects are lists in their columns.

        Raises:
            ValueError: pandas is not installed.
        """
        return _pandas().DataFrame(self.rows)


def to_pandas(tables: dict[str, Table]) -> "pandas.DataFrame":
    """The tables of all models, as ``read_scores`` gives them, in one frame whose first column is ``model``.

    Raises:
        ValueError: pandas is not installed.
    """
    return _pandas().DataFrame([{"model": name, **row} for name, table in tables.items() for row in table.rows])


def write_parquet(path: Path, tables: dict[str, Table]) -> None:
    """Write the same as a Parquet file.

    Raises:
        ValueError: pandas or pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError("Parquet needs pyarrow, which is not installed; run pip install 'erase[notebook]'.")
    with replacing(path) as partial:
        to_pandas(tables).to_parquet(partial, engine="pyarrow", index=False)


def write_scores(path: Path, tables: dict[str, Table]) -> None:
    """Write the tables of all models into one file."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for model, table in tables.items():
            for row in table.rows:
                file.write(json.dumps({"model": model, **row}, ensure_ascii=False) + "\n")


def read_scores(path: Path) -> dict[str, Table]:
    """Read what ``write_scores`` wrote: a table per model, erased first, then base and, where there is one, gold.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; score the images first.")
    with path.open(encoding="utf-8") as file:  # line by line: splitlines would also split at separators in prompts
        rows = [json.loads(line) for line in file]
    models = list(dict.fromkeys(row["model"] for row in rows))
    return {model: Table([row for row in rows if row["model"] == model]) for model in models}


def _pandas() -> Any:  # noqa: ANN401 - the module itself
    try:
        import pandas
    except ImportError as error:
        raise ValueError("A frame needs pandas, which is not installed; run pip install 'erase[notebook]'.") from error
    return pandas
