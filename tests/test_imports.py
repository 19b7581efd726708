"""Imports point one way: ``eval`` may import ``erase``, and in both a module imports only what stands before it here.

Every import statement counts, also those inside functions and those for type checkers only.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import erase


REPOSITORY = Path(erase.__file__).parents[1]
# folders and files of erase; what stands in one line does not import each other
ERASE = (
    ("concept", "hashing", "prompts", "shipped", "pipelines"),
    ("config",),
    ("model",),
    ("training",),
    ("artifact", "methods", "canvas"),
    ("interop", "experiment"),
    ("plan",),
)
# folders and files of eval: its stages
EVAL = (
    ("files", "limits", "formulas"),
    ("suite",),
    ("models",),
    ("draw",),
    ("score",),
    ("measurements",),
    ("measurements",),
    ("results",),
    ("measure",),
    ("gate",),
    ("attack",),
    ("report",),
    ("groups",),
    ("evaluate",),
    ("requests", "demo"),
)
MAY_IMPORT_EVAL = ("erase.api", "erase.cli")  # inside functions
MAY_IMPORT_CLI = ("erase.__main__",)


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    in_function: bool
    for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


def modules() -> dict[str, Path]:
    paths = [path for package in ("erase", "eval") for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path for path in paths
    }


def imports_of(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    """What a module imports of ours; ``from package import module`` is an import of the module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, *, in_function: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            targets: list[str] = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                base = ".".join([*above, *([child.module] if child.module else [])])
                targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in child.names]
            for target in dict.fromkeys(targets):
                if target.partition(".")[0] in ("erase", "eval"):
                    yield Import(name, target, child.lineno, in_function, for_types)
            yield from visit(
                child,
                in_function=in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
                for_types=for_types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)),
            )

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), in_function=False, for_types=False)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    paths = modules()
    return [each for name, path in paths.items() for each in imports_of(name, path, set(paths))]


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def place(name: str, order: tuple[tuple[str, ...], ...]) -> int:
    """The line of the order that a module stands in; a package by itself stands before everything."""
    part = name.split(".")[1] if "." in name else ""
    return next((line for line, parts in enumerate(order) if part in parts), -1)


def against(imports: list[Import], package: str, order: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports between parts of a package that run against the order, or between parts of one line of it."""
    ours = [each for each in imports if is_in(each.importer, (package,)) and is_in(each.imported, (package,))]
    return [
        str(each)
        for each in ours
        if each.importer.split(".")[1:2] != each.imported.split(".")[1:2]
        and place(each.imported, order) >= place(each.importer, order)
    ]


def circle(imports: list[Import]) -> list[str]:
    """The modules of a circle of imports, if there is one; in ``eval`` those inside functions count as well."""
    edges: dict[str, set[str]] = {}
    for each in imports:
        is_late = each.in_function or each.for_types
        if each.importer != each.imported and (not is_late or each.importer.startswith("eval.")):
            edges.setdefault(each.importer, set()).add(each.imported)
    done: set[str] = set()

    def follow(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := follow(other, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := follow(name, []))), [])


def test_every_part_has_its_place() -> None:
    top = {"erase": {"__init__", "__main__", "api", "cli", *sum(ERASE, ())}, "eval": {"__init__", *sum(EVAL, ())}}
    for package, expected in top.items():
        present = {path.stem for path in (REPOSITORY / package).iterdir() if path.suffix == ".py"}
        present |= {path.parent.name for path in (REPOSITORY / package).glob("*/__init__.py")}
        assert present == expected


def test_erase_imports_eval_only_inside_functions_of_the_cli_and_the_public_functions(imports: list[Import]) -> None:
    found = [each for each in imports if is_in(each.importer, ("erase",)) and is_in(each.imported, ("eval",))]
    wrong = [each for each in found if not is_in(each.importer, MAY_IMPORT_EVAL)]
    wrong += [each for each in found if not each.in_function and not each.for_types]
    assert list(map(str, wrong)) == []


def test_nothing_imports_the_cli(imports: list[Import]) -> None:
    found = [
        each for each in imports if is_in(each.imported, ("erase.cli",)) and not is_in(each.importer, ("erase.cli",))
    ]
    assert [str(each) for each in found if each.importer not in MAY_IMPORT_CLI] == []


def test_erase_points_one_way(imports: list[Import]) -> None:
    above = ("erase.__main__", "erase.api", "erase.cli")
    inner = [each for each in imports if each.importer != "erase" and not is_in(each.importer, above)]
    assert against([each for each in inner if each.imported not in ("erase", "erase.methods")], "erase", ERASE) == []
    # the names of a package alone: config lists the files of methods, and the folder of an erasure has its version
    named = {(each.importer, each.imported) for each in inner if each.imported in ("erase", "erase.methods")}
    assert named <= {("erase.config", "erase.methods"), ("erase.artifact.folder", "erase")}


def test_the_stages_of_eval_point_one_way(imports: list[Import]) -> None:
    assert against(imports, "eval", EVAL) == []


def test_there_is_no_circle(imports: list[Import]) -> None:
    assert circle(imports) == []


def test_a_circle_and_an_import_against_the_order_would_be_seen() -> None:
    def line(importer: str, imported: str) -> Import:
        return Import(importer, imported, 1, False, False)

    assert circle([line("a", "b"), line("b", "c"), line("c", "a"), line("c", "d")]) == ["a", "b", "c", "a"]
    assert circle([line("a", "b"), line("c", "b"), line("a", "c")]) == []
    wrong = line("eval.suite.grid", "eval.report.page")
    sideways = line("eval.files", "eval.limits")
    right = line("eval.report.page", "eval.suite.grid")
    assert against([wrong, sideways, right, line("eval.suite.a", "eval.suite.b")], "eval", EVAL) == [
        str(wrong),
        str(sideways),
    ]
