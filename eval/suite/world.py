"""The world of a grid suite: its styles and objects in label order, how prompts spell them, and its prompt template."""

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval.suite import worlds


COMBINATION = "combination"  # kind of a target that is a style and an object together


@dataclass(frozen=True, kw_only=True)
class World:
    """What the prompts of a grid are about, and what its judge is asked for.

    Attributes:
        name: Of the world, and of its module in ``eval/suite/worlds``.
        styles: Label of each style -> how prompts spell it; the order is that of the judge's classes.
        objects: The same of the objects.
        template: The prompt of a cell, with ``{style}`` and ``{object}`` in it.
        aliases: Kind (style or object) -> another name of a concept -> its label, for what a user may call a target.
        uncounted_styles: Labels whose own style accuracy counts neither for IRA nor for CRA.
    """

    name: str
    styles: Mapping[str, str]
    objects: Mapping[str, str]
    template: str
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    uncounted_styles: tuple[str, ...] = ()

    def labels(self, kind: str) -> tuple[str, ...]:
        """The labels of one kind, in the order of the judge's classes."""
        return tuple(self.spellings(kind))

    def spellings(self, kind: str) -> Mapping[str, str]:
        """Label -> spelling in prompts, of one kind.

        Raises:
            ValueError: A kind that is not style or object.
        """
        if kind not in ("style", "object"):
            raise ValueError(
                f"The world {self.name} has styles and objects, but the erased concept is a {kind}; use another suite."
            )
        return self.styles if kind == "style" else self.objects

    def prompt(self, style: str, obj: str) -> str:
        """The prompt of one cell.

        >>> load_world("unlearncanvas").prompt("Van_Gogh", "Architectures")
        'A Architectures image in Van Gogh style.'
        """
        return self.template.format(style=self.styles[style], object=self.objects[obj])

    def find(self, words: Sequence[str], kind: str) -> tuple[str, ...]:
        """The labels of concepts that are written by label, by spelling or by alias, in any case.

        >>> load_world("unlearncanvas").find(["van gogh", "PHOTO"], "style")
        ('Van_Gogh', 'Seed_Images')

        A combination is a text that names one style and one object, in any order and with other words between them.

        >>> load_world("unlearncanvas").find(["a painting of Cats in the Artist Sketch style"], "combination")
        ('Artist_Sketch x Cats',)

        Raises:
            ValueError: A concept that is not part of the world.
        """
        if kind == COMBINATION:
            return tuple(combine_labels(self._within(word, "style"), self._within(word, "object")) for word in words)
        labels = self._words(kind)
        missing = [word for word in words if word.lower() not in labels]
        if missing:
            raise ValueError(
                f"The world {self.name} has no {kind} {missing[0]!r}; it has {', '.join(self.labels(kind))}."
            )
        return tuple(labels[word.lower()] for word in words)

    def _words(self, kind: str) -> dict[str, str]:
        """What a user may call the concepts of a kind, in lower case -> label."""
        spellings = self.spellings(kind)
        words = {word.lower(): label for label, spelling in spellings.items() for word in (label, spelling)}
        return words | {word.lower(): label for word, label in self.aliases.get(kind, {}).items()}

    def _within(self, text: str, kind: str) -> str:
        """The one concept of a kind that a text names; of names within names (Sketch, Artist Sketch) the longest."""
        rest, labels = text.lower(), set[str]()
        for word, label in sorted(self._words(kind).items(), key=lambda item: -len(item[0])):
            shorter = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", rest)
            if shorter != rest:
                rest = shorter
                labels.add(label)
        if len(labels) != 1:
            raise ValueError(
                f"The combination {text!r} has to name one {kind} of the world {self.name}, but it names "
                f"{', '.join(sorted(labels)) or 'none'}: write one style and one object, such as 'Van Gogh Cats'."
            )
        return labels.pop()


def combine_labels(style: str, obj: str) -> str:
    """The label of a style and an object together.

    >>> split_label(combine_labels("Van_Gogh", "Cats"))
    ('Van_Gogh', 'Cats')
    """
    return f"{style} x {obj}"


def split_label(label: str) -> tuple[str, str]:
    """The style and the object of a combination."""
    style, _, obj = label.partition(" x ")
    return style, obj


def available_worlds() -> list[str]:
    """The names of the worlds, which are the files in ``eval/suite/worlds``.

    >>> available_worlds()
    ['canvas', 'unlearncanvas']
    """
    return sorted(module.name for module in pkgutil.iter_modules(worlds.__path__))


def load_world(name: str, *, compat: bool = False) -> World:
    """The world of this name.

    Args:
        name: Of a module in ``eval/suite/worlds``, which has a ``WORLD``.
        compat: Take the module's ``COMPAT``, which asks as the published code of the benchmark does.

    Raises:
        ValueError: An unknown world, or ``compat`` for a world without published code of its own.
    """
    if name not in available_worlds():
        raise ValueError(f"There is no world {name!r}; there are {', '.join(available_worlds())}.")
    module = importlib.import_module(f"eval.suite.worlds.{name}")
    if not compat:
        return module.WORLD
    if not hasattr(module, "COMPAT"):
        raise ValueError(f"The world {name} has no published code to be compatible with; leave compat out.")
    return module.COMPAT
