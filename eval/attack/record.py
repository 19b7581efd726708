"""What ``attack.json`` holds, and its only reader and writer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs

from eval.files import ATTACK, write_json
from eval.formulas.attack import ArmSuccess, Excess, Rate, Success


SCHEMA_VERSION = 2  # of attack.json


@dataclass(frozen=True, kw_only=True)
class AttackResults(Success):
    """The success of the attack and of its nulls, beside that of the base without an attack."""

    base: Rate


@dataclass(frozen=True, kw_only=True)
class Broken:
    """How many images of an arm are broken, and how many show nothing that the judge knows."""

    images: int
    broken: int
    nothing_recognised: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Every number of an attack.

    Attributes:
        results: Rates with intervals.
        broken: ``base`` or arm -> broken images.
        withheld: Why the numbers say nothing about the erasure; empty if they may be read.
    """

    results: AttackResults
    broken: dict[str, Broken]
    withheld: str = ""


@dataclass(frozen=True, kw_only=True)
class TryRecord:
    """One try: what the model was given, and whether the image shows the target."""

    prompt: str
    seed: int
    hit: bool


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """One attacked prompt.

    Attributes:
        key: Of its row.
        prompt: Without the attack.
        seed: Without the attack.
        base: Whether the base shows the target.
        arms: ``before``, ``attack`` and each null -> tries.
        first_losses: Of each try of the attack before its first step; empty where nothing is optimised.
        last_losses: The same before its last step.
        cost: Of its search: seconds, forwards and backwards in samples, searches that were stopped included.
    """

    key: str
    prompt: str
    seed: int
    base: bool
    arms: dict[str, list[TryRecord]]
    first_losses: list[float]
    last_losses: list[float]
    cost: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """The content of ``attack.json``.

    Attributes:
        attack: The settings of the attack, with its ``null``.
        suite: As ``Suite.describe`` gives it.
        concept: ``target``, ``kind``, ``anchor`` and ``names`` (the labels of the suite's world).
        models: Role (``erased``, ``base``) -> hash; the precision of the weights is part of both.
        outcome: All numbers.
        prompts: One record per prompt and seed.
        cost: Stage -> seconds, and forwards and backwards in samples, stopped work included; ``peak_memory_bytes`` of
            the search.
        provenance: Source, method, base, seed, dtype, judge, versions, time.
        reproduce: The command.
    """

    attack: dict[str, Any]
    suite: dict[str, Any]
    concept: dict[str, Any]
    models: dict[str, str]
    outcome: Outcome
    prompts: list[PromptRecord]
    cost: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    reproduce: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def arms(self) -> Mapping[str, ArmSuccess]:
        """The attack, and each of its nulls."""
        return {"attack": self.outcome.results.attack, **self.outcome.results.nulls}

    @property
    def excess(self) -> Excess:
        """Over the stronger null."""
        return self.outcome.results.excess


def write_attack(folder: Path, record: AttackRecord) -> Path:
    """Write ``attack.json``, whole or not at all."""
    write_json(folder / ATTACK, cattrs.unstructure(record))
    return folder / ATTACK


def read_record(folder: Path) -> AttackRecord:
    """Read the ``attack.json`` of a folder.

    Raises:
        FileNotFoundError: The folder holds none.
        ValueError: It is damaged, or of another version.
    """
    path = folder / ATTACK
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder that `erase attack` wrote its report into.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); run `erase attack` with this output folder again.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has the format {version}, but {SCHEMA_VERSION} is read; run `erase attack` again, or move the "
            "folder away."
        )
    try:
        return cattrs.structure(content, AttackRecord)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no attack of this format; run `erase attack` again.") from error
