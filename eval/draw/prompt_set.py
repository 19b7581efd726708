"""Prompt sets: what a prompt file asks for, and which folder holds its images.

The folder holds ``prompts.json`` (what was asked for), ``settings.json`` (what decides how it looks),
``manifest-<rank>.jsonl`` (one record per image, of each process), ``manifest.jsonl`` (all of them) and ``images``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from erase.prompts import PromptRow, find_data, read_prompts
from eval.draw import manifest
from eval.files import PROMPTS, write_json
from eval.suite.rows import SEED, Row
from eval.suite.suite import Sampler


COLUMNS = ("role", "family", "style", "object", "language")  # that a row has a field for


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to draw, and how.

    Attributes:
        model: An artefact of either form, a diffusers folder, a hub id, or ``canvas``.
        prompts: A prompt file, or a shipped one; see ``erase.prompts.read_prompts``.
        out: The folder of the images. A stopped generation in it is continued. Images of other prompts or settings in
            it stay alone: the new ones then go into a folder beside it.
        sampler: How to draw. Its guidance, if any, replaces that of the file; if neither gives one, the default of the
            pipeline's call counts.
        seeds: For every prompt, instead of the file's own.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        header: Whether a CSV of prompts begins with the names of its columns.
        skip_empty: Leave out rows without a prompt (I2P has one) instead of refusing the file.
    """

    model: str
    prompts: str
    out: Path
    sampler: Sampler = field(default_factory=lambda: Sampler(guidance_scale=None, batch_size=32))
    seeds: Sequence[int] | None = None
    device: str = "auto"
    dtype: str = "float32"
    header: bool = True
    skip_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts of a file, as they are asked for.

    Attributes:
        content: What ``prompts.json`` holds: the prompts with the guidance that is asked for.
        rows: One for each prompt and seed.
    """

    content: list[dict[str, Any]]
    rows: list[Row]

    def write(self, out: Path) -> None:
        """Write ``prompts.json`` unless the folder has it."""
        if not (out / PROMPTS).exists():
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / PROMPTS, self.content, indent=1)

    def differs(self, out: Path, settings: Mapping[str, Any]) -> str:
        """Which images of other prompts or settings a folder holds, in words; empty if it holds none.

        Args:
            out: The folder.
            settings: Those of ``eval.draw.generate.image_settings`` that are known.

        Raises:
            ValueError: The folder holds something else than the images of a prompt set.
        """
        before = _read_content(out)
        if before is None:
            return ""
        if before != self.content:
            return f"images of other prompts, with {_first_change(before, self.content)}"
        words = manifest.changed_settings(out, settings)
        return f"images {words}" if words else ""


def read_set(config: Config) -> PromptSet:
    """Read the prompts of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is malformed, or an id cannot be a file name.
    """
    path = find_data(config.prompts, within="prompts", suffix=".csv")
    prompts = read_prompts(path, header=config.header, skip_empty=config.skip_empty)
    scale = config.sampler.guidance_scale
    asked = {} if scale is None else {"guidance_scale": scale}
    return PromptSet(
        content=[asdict(prompt) | asked for prompt in prompts],
        rows=[row for prompt in prompts for row in _rows_of(prompt, config)],
    )


def _rows_of(prompt: PromptRow, config: Config) -> list[Row]:
    own = [SEED if prompt.seed is None else prompt.seed]
    return [
        Row(
            prompt_id=prompt.id,
            prompt=prompt.prompt,
            seed=seed,
            guidance_scale=prompt.guidance_scale if config.sampler.guidance_scale is None else None,
            columns={name: value for name, value in prompt.columns.items() if name not in COLUMNS},
            **{name: prompt.columns.get(name, "") for name in COLUMNS},
        )
        for seed in (own if config.seeds is None else config.seeds)
    ]


def _read_content(out: Path) -> list[dict[str, Any]] | None:
    """What ``prompts.json`` of a folder holds; None for a folder without images."""
    path = out / PROMPTS
    if out.exists() and not out.is_dir():
        raise ValueError(f"The output {out} exists and is not a folder: choose another one.")
    if not path.exists():
        if out.exists() and any(not entry.name.endswith(".partial") for entry in out.iterdir()):
            raise ValueError(f"{out} holds something other than the images of a prompt set: choose an empty folder.")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable ({error}): choose an empty folder.") from error


def _first_change(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> str:
    """The first prompt that differs, in words."""
    for old, new in zip(before, now, strict=False):
        if changed := [name for name in new if old.get(name) != new[name]]:
            name = changed[0]
            return f"the {name} {old.get(name)!r} instead of {new[name]!r} in row {new['id']!r}"
    return f"{len(before)} prompts instead of {len(now)}"
