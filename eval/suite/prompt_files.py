"""Rows from prompt files that the user fetched: which files, what is in them, and what their images are to show."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from erase.concept import Concept
from erase.prompts import PromptRow, read_prompts
from eval.files import sha256
from eval.limits import CONTROLS
from eval.suite.nouns import is_target, names_target, read_nouns
from eval.suite.rows import SEED, Row


TARGET = "{target}"  # what was erased, in the path of a prompt file and in what its images are to show
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
ROW_COLUMNS = ("role", "style", "object", "language")  # columns of a prompt file that are fields of a row


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """A prompt file that the user fetches, what must be in it, and which of its rows are drawn.

    Attributes:
        path: From the current folder; may hold ``TARGET``.
        name: What the report calls the file; the file's own name unless given.
        header: Whether it begins with the names of its columns; without, it is a list with one prompt per line.
        source: Where to fetch it, in words for a sentence.
        sha256: Of the whole file; if empty, its columns and rows are checked instead.
        columns: Columns it must have beside the prompt, by our names (``seed``, ``guidance_scale``) or its own.
        rows: How many rows with a prompt it must have; 0 for any number.
        skip_empty: Leave out rows whose prompt is empty instead of refusing the file.
        where: Column -> tag: only rows that have the tag in their comma-separated list.
        limit: Draw only the first so many of these rows; 0 for all.
        seeds: Of every prompt, instead of the suite's.
        shows: What the vision-language judge looks for: ``TARGET``, or ``{noun}`` of a column; if empty, the judge is
            not asked.
        beside_target: Its prompts ask for the target as well, and ``shows`` names what stands beside it.
        attack: Its prompts were searched to bring the target back.
        null_file: Of an attack: the file of the suite that asks for the target without it, as often per prompt.
    """

    path: str
    name: str = ""
    header: bool = True
    source: str
    sha256: str = ""
    columns: list[str] = field(default_factory=list)
    rows: int = 0
    skip_empty: bool = False
    where: dict[str, str] = field(default_factory=dict)
    limit: int = 0
    seeds: list[int] = field(default_factory=list)
    shows: str = ""
    beside_target: bool = False
    attack: bool = False
    null_file: str = ""

    @property
    def is_of_target(self) -> bool:
        """Whether its prompts ask for what was erased, so that other images than the base's are no damage."""
        return self.beside_target or TARGET in self.shows

    @property
    def label(self) -> str:
        """The name of the file in the report."""
        return self.name or Path(self.path).stem


@dataclass(frozen=True, kw_only=True)
class PromptFiles:
    """The rows of a suite that come from prompt files; the fields are those of ``prompts`` in its YAML.

    Attributes:
        files: The prompt files.
        seeds: Of every prompt; empty for the files' own.
        target: What stands in place of ``TARGET``; what was erased from the models unless given.
        kind: The kind of the target, such as ``style``.
        explicit: What is drawn may be explicit, so the report shows no image that can be made out.
    """

    files: list[PromptFile] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    target: str = ""
    kind: str = ""
    explicit: bool = False

    def __post_init__(self) -> None:
        """Refuse what would fail, or mean nothing, once the images are drawn."""
        if not self.files:
            raise ValueError("The suite has no prompt files: name at least one in prompts.files.")
        for seeds in (self.seeds, *(file.seeds for file in self.files)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"The suite has seeds {seeds}: give each once.")
        labels = [file.label for file in self.files]
        if len(set(labels)) < len(labels):
            raise ValueError(f"The suite has the prompt files {', '.join(labels)}: give each a name of its own.")
        plain = {file.label for file in self.files if TARGET in file.shows and not file.attack}
        for file in self.files:
            if file.attack and TARGET not in file.shows:
                raise ValueError(
                    f"The suite has the attack {file.label}, which shows {file.shows!r}: an attack is to bring "
                    f"{TARGET} back, so write that."
                )
            if file.null_file and not (file.attack and file.null_file in plain):
                raise ValueError(
                    f"The suite names {file.null_file!r} as the null attack of {file.label}: an attack needs a file of "
                    f"the suite that is no attack and shows {TARGET}."
                )

    @property
    def needs_target(self) -> bool:
        """Whether a file asks for what was erased."""
        return any(TARGET in file.path + file.shows for file in self.files)

    @property
    def looks_for_target(self) -> bool:
        """Whether the vision-language judge is asked for what was erased."""
        return any(TARGET in file.shows for file in self.files)

    @property
    def controls(self) -> list[str]:
        """The files whose images do not show the target, so that the judge must say no; none if it is not asked."""
        others = [file.label for file in self.files if not file.shows and not file.is_of_target]
        return others if self.looks_for_target else []

    def aim(self, concepts: Sequence[Concept]) -> "PromptFiles":
        """The same for models from which these concepts were erased; unchanged if no file asks for ``TARGET``.

        Raises:
            ValueError: The models have several targets, so their prompts would differ.
        """
        if self.target or not self.needs_target:
            return self
        targets = list(dict.fromkeys((concept.target, concept.kind) for concept in concepts))
        names = list(dict.fromkeys(name for target, _ in targets for name in target))
        if len(names) != 1 or len(targets) != 1:
            raise ValueError(
                f"The prompts of the suite are about one target, but {', '.join(names) or 'nothing'} was erased from "
                "these models: evaluate one target after the other, or write one as prompts.target into a copy of the "
                "suite."
            )
        return replace(self, target=names[0], kind=targets[0][1])

    def rows(self) -> list[Row]:
        """One row for each prompt and seed of the files; ``family`` is the name of the file.

        A prompt that a file repeats with one seed and guidance would give one image several times: it is drawn once.

        Raises:
            FileNotFoundError: A prompt file was not fetched; it says from where.
            ValueError: A prompt file is not the one that the suite means, has no row that is asked for, or lacks a
                column that its images are to show, or the suite is not aimed at a target.
        """
        if self.needs_target and not self.target:
            raise ValueError(
                "The prompts of the suite are about the target of an erasure, but none is given: write it as "
                "prompts.target into a copy of the suite."
            )
        return [row for file in self.files for row in _rows_of(file, self)]


def path_of(file: PromptFile, prompts: PromptFiles) -> Path:
    """Where a prompt file is, with the target in its name."""
    return Path(file.path.replace(TARGET, prompts.target))


def asked_of(row: Row) -> list[str]:
    """What the vision-language judge looks for in the image of a row."""
    return json.loads(row.columns.get("shows", "[]"))


def read_file(file: PromptFile, prompts: PromptFiles) -> Sequence[PromptRow]:
    """The prompts of a file that a suite draws.

    Raises:
        FileNotFoundError: The file was not fetched; it says from where.
        ValueError: The file is not the one that the suite means, or has no prompt that is asked for.
    """
    path = path_of(file, prompts)
    if not path.is_file():
        columns = ", ".join(["prompt", *file.columns])
        content = f"a prompt file with {columns}" if file.header else "a list with one prompt per line"
        content += f", {file.rows:,} rows" if file.rows else ""
        raise FileNotFoundError(
            f"The suite needs {path}, {content}, which does not exist: fetch {file.source} and put it there, or write "
            "its path into a copy of the suite."
        )
    if file.sha256 and (own := sha256(path)) != file.sha256:
        raise ValueError(
            f"{path} has the SHA-256 {own}, but the suite means the file with {file.sha256}: fetch {file.source}, or "
            "write the other hash into a copy of the suite under another name."
        )
    rows = read_prompts(path, required=tuple(file.columns), header=file.header, skip_empty=file.skip_empty)
    if file.rows and len(rows) != file.rows:
        raise ValueError(
            f"{path} has {len(rows):,} prompts, but the suite means a file with {file.rows:,}: fetch {file.source}."
        )
    for column, tag in file.where.items():
        if any(column not in row.columns for row in rows):
            raise ValueError(f"{path} has no column {column!r}, by which the suite chooses rows: correct the file.")
        rows = [row for row in rows if tag in [each.strip() for each in row.columns[column].split(",")]]
    if not rows:
        raise ValueError(f"{path} has no row with {file.where}, which the suite asks for: correct one of them.")
    return rows[: file.limit] if file.limit else rows


def _rows_of(file: PromptFile, prompts: PromptFiles) -> list[Row]:
    rows: dict[tuple[str, int, float | None], Row] = {}
    controls = 0
    for prompt in read_file(file, prompts):
        things = _things(file, prompt, prompts) if file.shows else []
        if file.shows and not things:  # nothing beside the target: there is nothing to look for
            continue
        for seed in file.seeds or prompts.seeds or [SEED if prompt.seed is None else prompt.seed]:
            image = (prompt.prompt, seed, prompt.guidance_scale)
            if image in rows:
                continue
            may_control = file.label in prompts.controls and controls < CONTROLS
            is_control = may_control and not names_target(prompt.prompt, prompts.target)
            controls += is_control
            rows[image] = _row(file, prompt, prompts, seed=seed, shows=[_target(prompts)] if is_control else things)
    if not rows:
        raise ValueError(
            f"{path_of(file, prompts)} has no prompt of which the images of {file.label} could show {file.shows!r}: "
            "correct the file, or leave it out of the suite."
        )
    return list(rows.values())


def _row(file: PromptFile, prompt: PromptRow, prompts: PromptFiles, *, seed: int, shows: Sequence[str]) -> Row:
    name = f"{file.label}_{prompt.id}" if len(prompts.files) > 1 else prompt.id
    others = {column: value for column, value in prompt.columns.items() if column not in ROW_COLUMNS}
    return Row(
        prompt_id=name.replace(" ", "_"),
        prompt=prompt.prompt,
        seed=seed,
        family=file.label,
        guidance_scale=prompt.guidance_scale,
        columns=others | {"shows": json.dumps(shows)},
        **{column: prompt.columns.get(column, "") for column in ROW_COLUMNS},
    )


def _target(prompts: PromptFiles) -> str:
    return f"the style of {prompts.target}" if prompts.kind == "style" else prompts.target


def _things(file: PromptFile, prompt: PromptRow, prompts: PromptFiles) -> list[str]:
    """What the image of a prompt is to show: one thing, or each of those that a column lists."""
    names = [name for name in PLACEHOLDER.findall(file.shows) if f"{{{name}}}" != TARGET]
    if absent := [name for name in names if name not in prompt.columns]:
        raise ValueError(
            f"The suite asks whether the images of {file.label} show {file.shows!r}, but {file.path} has no column "
            f"{absent[0]!r}: name one that it has ({', '.join(prompt.columns) or 'it has none'})."
        )
    values = {name: prompt.columns[name].replace("_", " ").strip() for name in names}
    if len(names) == 1 and file.shows == f"{{{names[0]}}}":
        if prompt.columns[names[0]].startswith("["):
            return read_nouns(json.loads(prompt.columns[names[0]]), prompts.target)
        (value,) = values.values()  # a name that holds the target's, such as a running stitch's, is a near noun
        return [] if is_target(value, prompts.target) else [value]
    text = file.shows.replace(TARGET, _target(prompts))
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return [text] if all(values.values()) else []
