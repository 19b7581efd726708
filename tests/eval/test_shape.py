"""The shape of the evaluation's code: what travels together is a dataclass."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from eval import limits


FOLDER = Path(limits.__file__).parent
MOST_PARAMETERS = 8
MOST_DICTIONARIES = 25  # edges to JSON


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(FOLDER)}: {node.name}", node


def test_no_function_takes_more_than_eight_parameters() -> None:
    counts = {}
    for name, node in functions():
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        counts[name] = len(names) - (names[:1] in (["self"], ["cls"]))
    assert len(counts) > 500
    assert [name for name, count in counts.items() if count > MOST_PARAMETERS] == []


def test_results_travel_as_dataclasses() -> None:
    returns = {name: ast.unparse(node.returns) for name, node in functions() if node.returns is not None}
    loose = [name for name, annotation in returns.items() if re.search(r"dict\[str, Any\]", annotation)]
    assert len(loose) <= MOST_DICTIONARIES, loose


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in FOLDER.rglob("*.py")}
    assert [str(path) for path, count in lines.items() if count > 400] == []
