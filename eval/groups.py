"""Which models of an evaluation belong together, and what the report calls their base and gold models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.files import FEATURES, HTML, MARKDOWN, REPORT, SCORES
from eval.measure.registry import check_metrics
from eval.measure.sequence import check_order
from eval.models.subject import Subject
from eval.results import read_results
from eval.suite.grid import Target, find_target
from eval.suite.rows import Row
from eval.suite.suite import Suite


# what a report and its folder call something else
RESERVED = ("base", "gold", "reference", REPORT, HTML, MARKDOWN, SCORES, FEATURES)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Models of one target and one base: their rows are the same."""

    number: int
    target: Target | None  # None for prompt files
    subjects: tuple[Subject, ...]
    rows: tuple[Row, ...]
    suffix: str  # what the report adds to the names of its base and gold

    @property
    def base(self) -> str:
        """Label of the base."""
        return f"base{self.suffix}"

    @property
    def gold(self) -> str:
        """Label of the gold model."""
        return f"gold{self.suffix}"


def plan_groups(subjects: Sequence[Subject], suite: Suite, *, is_sequence: bool = False) -> tuple[Suite, list[Group]]:
    """Sort models by target and base; the suite comes back aimed at their target where its prompt files need one.

    Raises:
        FileNotFoundError: A prompt file does not exist.
        ValueError: A target is not part of the suite's world, the suite cannot ask for it or names an unknown metric,
            the models are no sequence of erasures, or two have one name.
    """
    check_labels([each.label for each in subjects])
    check_metrics(suite)
    suite = suite.aim([each.concept for each in subjects])
    targets = [_target(each, suite) for each in subjects]
    if is_sequence:
        check_order([(each.label, target) for each, target in zip(subjects, targets, strict=True)])
    keys = [(target, base_key(each)) for each, target in zip(subjects, targets, strict=True)]
    groups = []
    for number, key in enumerate(dict.fromkeys(keys)):
        members = tuple(each for each, own in zip(subjects, keys, strict=True) if own == key)
        suffix = _suffix(number, list(dict.fromkeys(keys)))
        rows = tuple(suite.rows(key[0]))
        groups.append(Group(number=number, target=key[0], subjects=members, rows=rows, suffix=suffix))
    _check_names(groups)
    return suite, groups


def _check_names(groups: Sequence[Group]) -> None:
    """Refuse a model that is called as the report calls a base or gold model, whose numbers it would get."""
    references = {label for group in groups for label in (group.base, group.gold)}
    if taken := [each.label for group in groups for each in group.subjects if each.label in references]:
        raise ValueError(
            f"A model is called {taken[0]!r}, as the report calls a base or gold model: rename its folder."
        )


def find_gold(suite: Suite, group: Group) -> str | None:
    """The concept of the gold model that stands beside a group, if the suite wants one and one is shipped."""
    from erase.shipped import gold_names

    is_asked = suite.grid is not None and suite.grid.gold and group.subjects[0].base == "canvas"
    names = group.target.names if group.target and is_asked else ()
    return names[0] if len(names) == 1 and names[0] in gold_names() else None


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that are no folder of one model.

    Raises:
        ValueError: It names the label.
    """
    if twice := [label for label in labels if labels.count(label) > 1 or label in RESERVED]:
        raise ValueError(
            f"The models are called {', '.join(labels)}, but each needs a name of its own, and {twice[0]!r} is taken: "
            "rename a folder."
        )


def check_out(out: Path, suite: Suite, labels: Sequence[str]) -> None:
    """Refuse an output that cannot be written, or that holds a report of another kind of suite or of another version.

    Args:
        out: The folder of the report.
        suite: What is asked.
        labels: Of the models, whose images go into folders of these names.

    Raises:
        ValueError: It says which.
    """
    for folder in (out, *(out / label for label in labels)):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"The output {folder} is a file: name another folder.")
    if (out / REPORT).is_file() and (kind := read_results(out).kind) != suite.kind:
        words = {"grid": "a grid of styles and objects", "prompts": "prompt files"}
        raise ValueError(
            f"The output {out} holds a report of {words[kind]}, but the suite {suite.name!r} is one of "
            f"{words[suite.kind]}: choose another folder."
        )


def _target(each: Subject, suite: Suite) -> Target | None:
    if suite.grid is None:
        return None
    return find_target(each.concept.target, each.concept.kind, suite.grid.load_world())


def base_key(each: Subject) -> str | int:
    """What tells bases apart: the name of one on disk, and of a loaded pipeline that it is the same object."""
    return each.base if isinstance(each.base, str) else id(each.base)


def _suffix(number: int, keys: Sequence[tuple[Target | None, str | int]]) -> str:
    """What tells the bases of several groups apart: their targets, or else a number."""
    if len(keys) == 1:
        return ""
    targets = [target for target, _ in keys]
    own = targets[number]
    if own is None or targets.count(own) > 1:
        return f" {number + 1}"
    return f" ({', '.join(own.names).replace('_', ' ')})"
