"""What is erased: the targets, the anchor they are mapped to, and the prompts that name them."""

from dataclasses import dataclass
from typing import NamedTuple


KINDS = ("style", "object", "combination", "person", "explicit")


class PromptPair(NamedTuple):
    """A forget prompt and the prompt whose meaning it takes on."""

    target: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One or several targets, erased in one run.

    Attributes:
        target: What is erased; a plain string is accepted and becomes a tuple of one.
        anchor: What every target is mapped to; ``""`` is the unconditional prompt.
        kind: ``style``, ``object``, ``combination`` (a style and an object together, such as "Van Gogh Cats", where
            either alone is to stay), ``person`` or ``explicit``.
        synonyms: Other names of the target. Methods never train on them, a block list blocks them; evaluation asks
            whether they are erased as well. To train on a synonym, make it a target.
        templates: Forget prompts with ``{}`` in the place of the target. The default is the bare name, as in the
            ESD paper.

    Example:
        >>> concept = Concept(target=("Cats", "Dogs"), kind="object", templates=("{}", "a photo of {}"))
        >>> concept.prompts("Cats")
        ['Cats', 'a photo of Cats']
        >>> [pair.target for pair in concept.pairs()]
        ['Cats', 'Dogs', 'a photo of Cats', 'a photo of Dogs']
    """

    target: tuple[str, ...]
    anchor: str = ""
    kind: str = "style"
    synonyms: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)

    def __post_init__(self) -> None:
        """Normalise strings and lists to tuples, and refuse what cannot be erased."""
        for field in ("target", "synonyms", "templates"):
            object.__setattr__(self, field, _as_tuple(getattr(self, field)))
        object.__setattr__(self, "anchor", self.anchor.strip())
        if not self.target or not all(self.target):
            raise ValueError(f"The target is {list(self.target)!r}, but every target needs a name: pass what to erase.")
        names = [name.casefold() for name in self.target]
        if len(set(names)) < len(names):
            raise ValueError(f"The targets {list(self.target)!r} name one thing twice: list every target once.")
        if self.anchor.casefold() in names:
            raise ValueError(
                f"The anchor {self.anchor!r} is itself a target, so nothing would be erased: "
                "choose another anchor, or '' for the unconditional prompt."
            )
        if self.kind not in KINDS:
            raise ValueError(f"The kind {self.kind!r} is unknown: choose one of {', '.join(KINDS)}.")
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ValueError(f"The templates {list(self.templates)!r} must each hold {{}} in the place of the target.")

    def prompts(self, name: str) -> list[str]:
        """Return the forget prompts of one target."""
        if name not in self.target:
            raise ValueError(f"{name!r} is not a target of this concept: choose one of {', '.join(self.target)}.")
        return [template.replace("{}", name) for template in self.templates]

    def pairs(self) -> list[PromptPair]:
        """Return the forget prompts of all targets, targets taking turns, each with its anchor prompt.

        The anchor stands in the same template as its target, so that the rest of the prompt keeps its meaning; the
        empty anchor stays the unconditional prompt.
        """
        return [
            PromptPair(template.replace("{}", name), template.replace("{}", self.anchor) if self.anchor else "")
            for template in self.templates
            for name in self.target
        ]


def _as_tuple(value: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    return tuple(item.strip() for item in ([value] if isinstance(value, str) else value))
