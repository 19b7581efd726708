"""Evaluation rows of a world: the style x object grid, and the held-out wordings of the erased concepts."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from erase.prompts import read_prompts
from eval.suite.rows import Row
from eval.suite.world import COMBINATION, World, combine_labels, split_label


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
    names: tuple[str, ...]  # of a combination: one, as ``World.find`` calls it

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


def find_target(words: Sequence[str], kind: str, world: World) -> Target:
    """The labels of erased concepts, given by label, by name or by alias.

    >>> from eval.suite.world import load_world
    >>> find_target(["van gogh"], "style", load_world("canvas"))
    Target(kind='style', names=('Van_Gogh',))

    Raises:
        ValueError: a concept that is not part of the world, or several combinations, of which no metric is known.
    """
    if kind == COMBINATION and len(words) > 1:
        raise ValueError(
            f"The targets are the combinations {', '.join(words)}, but SC, OC and UP are those of one style and one "
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
        FileNotFoundError: no such file.
        ValueError: a malformed file, or a family without a role.
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
        FileNotFoundError: no such file.
        ValueError: a malformed file, or one without an attack on the target.
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
        rows: of the suite.
        world: of the suite.
        one_object: the judge names one object per image.

    Raises:
        ValueError: a two-object prompt for such a judge, or a style or an object that is not part of the world.
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
