"""The tidy table of scores: one row per image of each model, kept in ``scores.jsonl``."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


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


def write_scores(path: Path, tables: dict[str, Table]) -> None:
    """Write the tables of all models into one file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for model, table in tables.items():
            for row in table.rows:
                file.write(json.dumps({"model": model, **row}, ensure_ascii=False) + "\n")
    partial.replace(path)


def read_scores(path: Path) -> dict[str, Table]:
    """Read what ``write_scores`` wrote.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; score the images first.")
    with path.open(encoding="utf-8") as file:  # line by line: splitlines would also split at separators in prompts
        rows = [json.loads(line) for line in file]
    models = list(dict.fromkeys(row["model"] for row in rows))
    return {model: Table([row for row in rows if row["model"] == model]) for model in models}
