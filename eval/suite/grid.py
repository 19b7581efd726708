"""Rows of a world: the style x object grid, the held-out wordings of the erased concepts, and attacks on them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from erase.prompts import find_data, read_prompts
from eval.suite.rows import Row
from eval.suite.world import COMBINATION, World, combine_labels, load_world, split_label


# wording -> role of its rows
ROLES = {
    "paraphrase": "target",
    "alias": "synonym",
    "description": "synonym",
    "language": "multilingual",
    "two_object": "combo",
}
COLUMNS = ("family", "concept", "kind", "style", "object", "language")  # beside the prompt
ATTACK_COLUMNS = ("attack", "null", "concept", "kind")  # the same for attack prompts


class Target(NamedTuple):
    """The erased concepts as labels of the suite's world."""

    kind: str  # style, object or combination
    names: tuple[str, ...]  # labels; of a combination one, as ``World.find`` writes it

    def is_asked(self, style: str, obj: str) -> bool:
        """Whether a prompt with this style and this object asks for an erased concept, or an image of both shows it."""
        own = {"style": style, "object": obj, COMBINATION: combine_labels(style, obj)}
        return own[self.kind] in self.names

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Axis and label of everything that the target is made of.

        >>> Target("combination", ("Van_Gogh x Cats",)).parts
        [('style', 'Van_Gogh'), ('object', 'Cats')]
        """
        if self.kind != COMBINATION:
            return [(self.kind, name) for name in self.names]
        return [part for name in self.names for part in zip(("style", "object"), split_label(name), strict=True)]

    @property
    def objects(self) -> list[str]:
        """The objects among the parts."""
        return [name for axis, name in self.parts if axis == "object"]


@dataclass(frozen=True, kw_only=True)
class GridRows:
    """The rows of a suite that come from a grid of styles and objects; the fields are those of ``grid`` in its YAML.

    Attributes:
        world: A module of ``eval.suite.worlds``: labels, how prompts spell them, and the prompts' template.
        compat: Ask as the published code of the world's benchmark does, where that differs; see the world's module.
        styles: Labels; empty for all of the world.
        objects: Labels; empty for all of the world.
        seeds: Of every cell of the grid; the default is UnlearnCanvas'.
        held_out: CSV in ``prompts`` with held-out wordings of the target; empty for none.
        held_out_seeds: Of every held-out wording, and of attack prompts without a seed of their own.
        attacks: CSV of attack prompts; empty for none.
        gold: Stand beside a model that never saw the target, if there is one.
        neighbours: How many concepts nearest to the target pinpoint-ness looks at.
    """

    world: str = "canvas"
    compat: bool = False
    styles: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [188, 288, 588, 688, 888])
    held_out: str = "canvas_held_out"
    held_out_seeds: list[int] = field(default_factory=lambda: [188, 288])
    attacks: str = ""
    gold: bool = True
    neighbours: int = 3

    def __post_init__(self) -> None:
        """Refuse what would fail, or mean nothing, once the images are drawn."""
        world = self.load_world()
        for name, labels in (("styles", world.labels("style")), ("objects", world.labels("object"))):
            absent = [label for label in getattr(self, name) if label not in labels]
            if absent:
                raise ValueError(f"The grid has {absent[0]!r} in {name}; the world has {', '.join(labels)}.")
        for name in ("styles", "objects", "seeds", "held_out_seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or (name == "seeds" and not values):
                raise ValueError(f"The grid has {name} {values}: give each once, and at least one seed.")
        if self.neighbours < 1:
            raise ValueError(f"The grid has neighbours {self.neighbours}: at least 1 is needed.")

    @property
    def axes(self) -> tuple[list[str], list[str]]:
        """The styles and the objects of the grid."""
        world = self.load_world()
        return self.styles or list(world.styles), self.objects or list(world.objects)

    def load_world(self) -> World:
        """The world of the grid."""
        return load_world(self.world, compat=self.compat)

    def files(self) -> dict[str, Path]:
        """The prompt files, by the names that the suite gives them.

        Raises:
            FileNotFoundError: A prompt file does not exist.
        """
        names = [name for name in (self.held_out, self.attacks) if name]
        return {name: find_data(name, within="prompts", suffix=".csv") for name in names}

    def rows(self, target: Target) -> list[Row]:
        """All rows for a target: the grid, then the held-out wordings, then the attack prompts.

        Raises:
            FileNotFoundError: A prompt file does not exist.
            ValueError: The grid does not hold the target, or nothing else, or a prompt file is malformed or does not
                fit.
        """
        self._check(target)
        world, (styles, objects) = self.load_world(), self.axes
        rows = grid_rows(styles, objects, self.seeds, target, world=world)
        if all(row.role == "target" or row.style in world.uncounted_styles for row in rows):
            raise ValueError(
                f"The grid has no prompts without {', '.join(target.names)}, so it cannot tell what else is hurt; add "
                "other styles or objects."
            )
        files = self.files()
        if self.held_out:
            rows += held_out_rows(files[self.held_out], target, self.held_out_seeds)
        if self.attacks:
            rows += attack_rows(files[self.attacks], target, self.held_out_seeds)
        return rows

    def _check(self, target: Target) -> None:
        """Refuse a target that is no part of the grid, and a combination beside which nothing would remain."""
        styles, objects = self.axes
        for axis, name in target.parts:
            labels = styles if axis == "style" else objects
            if name not in labels:
                raise ValueError(f"The grid has no {axis} {name!r}; it has {', '.join(labels)}.")
        if target.kind == COMBINATION and min(len(styles), len(objects)) < 2:
            raise ValueError(
                f"The grid has one style or one object only, but what remains beside {target.names[0]} shows in "
                "others: add some."
            )


def find_target(words: Sequence[str], kind: str, world: World) -> Target:
    """The labels of erased concepts, which are written by label, by name or by alias.

    >>> from eval.suite.world import load_world
    >>> find_target(["van gogh"], "style", load_world("canvas"))
    Target(kind='style', names=('Van_Gogh',))

    Raises:
        ValueError: A concept that is not part of the world, or several combinations, for which there is no metric.
    """
    if kind == COMBINATION and len(words) > 1:
        raise ValueError(
            f"The targets are the combinations {', '.join(words)}, but SC, OC and UP are defined for one style and one "
            "object: evaluate one target at a time."
        )
    return Target(kind, world.find(words, kind))


def grid_rows(
    styles: Sequence[str],
    objects: Sequence[str],
    seeds: Sequence[int],
    target: Target | None = None,
    *,
    world: World,
) -> list[Row]:
    """One row per style, object and seed, in the words of the world's template.

    >>> from eval.suite.world import load_world
    >>> grid_rows(["Van_Gogh"], ["Cats"], [188], Target("style", ("Van_Gogh",)), world=load_world("canvas"))[0].role
    'target'
    """
    return [
        Row(
            prompt_id=f"{style}_{obj}",
            prompt=world.prompt(style, obj),
            seed=seed,
            role="" if target is None else "target" if target.is_asked(style, obj) else "adjacent",
            style=style,
            object=obj,
        )
        for style in styles
        for obj in objects
        for seed in seeds
    ]


def held_out_rows(path: Path, target: Target, seeds: Sequence[int]) -> list[Row]:
    """The held-out wordings of the erased concepts: paraphrases, aliases, descriptions, languages, two objects.

    A line is about the target if its kind and its concept say so, or, where its kind is ``cell``, if its style or one
    of its objects (``Cats+Dogs``) is the target.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is malformed, or has a family without a role.
    """
    rows = []
    for line in read_prompts(path, required=COLUMNS):
        columns = line.columns
        if columns["family"] not in ROLES:
            raise ValueError(f"{path} has the family {columns['family']!r}; expected one of {', '.join(ROLES)}.")
        if not _is_about(columns, target):
            continue
        digest = hashlib.sha256(line.prompt.encode()).hexdigest()[:10]
        rows += [
            Row(
                prompt_id=f"{columns['family']}_{digest}",
                prompt=line.prompt,
                seed=seed,
                role=ROLES[columns["family"]],
                family=columns["family"],
                style=columns["style"],
                object=columns["object"],
                language=columns["language"],
            )
            for seed in seeds
        ]
    return rows


def attack_rows(path: Path, target: Target, seeds: Sequence[int]) -> list[Row]:
    """The attack prompts against the erased concepts, family ``attack``, and their null attacks, ``attack_null``.

    The file has the columns prompt, attack (its name), null (``yes`` for prompts of the null attack of the same budget,
    or nothing), kind and concept (the target, by its label), and may prescribe the seed of a row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is malformed, or has no attack on the target.
    """
    rows = []
    for line in read_prompts(path, required=ATTACK_COLUMNS):
        columns = line.columns
        if columns["null"] not in ("", "yes"):
            raise ValueError(f"{path} has {columns['null']!r} in the column 'null'; write yes or nothing.")
        if columns["kind"] != target.kind or columns["concept"] not in target.names:
            continue
        family = "attack_null" if columns["null"] else "attack"
        digest = hashlib.sha256(f"{columns['attack']}\n{line.prompt}".encode()).hexdigest()[:10]
        rows += [
            Row(
                prompt_id=f"{family}_{digest}",
                prompt=line.prompt,
                seed=seed,
                role="adversarial",
                family=family,
                attack=columns["attack"],
            )
            for seed in ([line.seed] if line.seed is not None else seeds)
        ]
    if not any(row.family == "attack" for row in rows):
        raise ValueError(f"{path} has no attack on the {target.kind} {', '.join(target.names)}; give one that has.")
    return rows


def check_labels(rows: Sequence[Row], world: World, *, one_object: bool) -> None:
    """Refuse prompts whose answer the judge of a world does not know.

    Args:
        rows: Of the suite.
        world: Of the suite.
        one_object: The judge names one object per image.

    Raises:
        ValueError: A two-object prompt for such a judge, or a style or an object that is not part of the world.
    """
    for row in rows:
        if one_object and row.family == "two_object":
            raise ValueError(
                f"The suite has the two-object prompt {row.prompt!r}, but its judge names one object per image: leave "
                "two_object out of the held-out prompts."
            )
        for kind, labels in (("style", [row.style]), ("object", row.object.split("+"))):
            odd = [label for label in labels if label and label not in world.spellings(kind)]
            if odd:
                raise ValueError(
                    f"The suite has the prompt {row.prompt!r} of the {kind} {odd[0]!r}, which is not part of its world "
                    f"{world.name}: name other prompt files, or none."
                )


def _is_about(columns: dict[str, str], target: Target) -> bool:
    if columns["kind"] == "cell":
        styles, objects = columns["style"].split("+"), columns["object"].split("+")
        return any(target.is_asked(style, obj) for style in styles for obj in objects)
    return columns["kind"] == target.kind and columns["concept"] in target.names
