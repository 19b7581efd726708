"""UA, IRA and CRA of UnlearnCanvas (arXiv 2402.11846) from a complete table with one row per image.

For a style target: UA = 1 - style accuracy on the images that ask for the target, IRA = style accuracy on all other
images, CRA = object accuracy. For an object target the axes change places. Every cell holds the same number of images,
so the mean over images and the mean over concepts are the same number. All are better when higher.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """What every image was asked for, and what the judge sees in it."""

    style: np.ndarray  # (n,) names
    object: np.ndarray  # (n,) names
    seen_style: np.ndarray  # (n,) names
    seen_object: np.ndarray  # (n,) names
    prompt: np.ndarray  # (n,) int, number of the prompt


class Outcomes(NamedTuple):
    """One yes or no per image, and the number of the prompt of each image; the metric is the mean."""

    hit: np.ndarray  # (n,) bool
    prompt: np.ndarray  # (n,) int

    @property
    def value(self) -> float:
        """The share of hits."""
        return float(self.hit.mean())


def check_complete(
    style: np.ndarray, obj: np.ndarray, *, styles: Sequence[str], objects: Sequence[str], per_cell: int
) -> None:
    """Refuse a table in which a cell has too few or too many images.

    >>> cells = np.array(["Photo", "Photo"]), np.array(["Cats", "Dogs"])
    >>> check_complete(*cells, styles=["Photo"], objects=["Cats", "Dogs"], per_cell=1)
    >>> check_complete(*cells, styles=["Photo"], objects=["Cats", "Trees"], per_cell=1)
    Traceback (most recent call last):
        ...
    ValueError: The cell Photo / Trees has 0 images instead of 1; generate what is missing before scoring.

    Raises:
        ValueError: it names the cell.
    """
    for one in styles:
        for other in objects:
            found = int(((style == one) & (obj == other)).sum())
            if found != per_cell:
                raise ValueError(
                    f"The cell {one} / {other} has {found} images instead of {per_cell}; "
                    "generate what is missing before scoring."
                )


def unlearn_canvas(
    answers: Answers, *, kind: str, targets: Sequence[str], uncounted_styles: Sequence[str] = ()
) -> dict[str, Outcomes]:
    """The outcomes behind UA, IRA and both conventions of CRA.

    ``cra_excl_target`` leaves out the images that ask for the target, as the benchmark's text says; ``cra_code`` counts
    all images, as its published code does.

    >>> style, seen_style = np.array([["Photo", "Photo", "Sepia", "Sepia"], ["Photo", "Sepia", "Photo", "Sepia"]])
    >>> obj, seen_object = np.array([["Cats", "Dogs", "Cats", "Dogs"], ["Cats", "Cats", "Cats", "Dogs"]])
    >>> answers = Answers(style, obj, seen_style, seen_object, np.arange(4))
    >>> {name: each.value for name, each in unlearn_canvas(answers, kind="style", targets=["Sepia"]).items()}
    {'ua': 0.5, 'ira': 0.5, 'cra_excl_target': 0.5, 'cra_code': 0.75}

    Args:
        answers: Of all images of the grid.
        kind: Style or object.
        targets: The erased concepts of that kind.
        uncounted_styles: Styles whose accuracy is left out of the mean over the retained styles (IRA of a style target,
            both CRA of an object target), as UnlearnCanvas leaves out photos; the objects in them count.

    Raises:
        ValueError: A kind that is not style or object, or a table without images of the target.
    """
    if kind not in ("style", "object"):
        raise ValueError(f"UA, IRA and CRA exist for a style or an object, not for a {kind!r}; use another suite.")
    right = {"style": answers.style == answers.seen_style, "object": answers.object == answers.seen_object}
    own, other = ("style", "object") if kind == "style" else ("object", "style")
    forget = np.isin(answers.style if kind == "style" else answers.object, list(targets))
    if not forget.any() or forget.all():
        raise ValueError(
            f"The table has {int(forget.sum())} of {len(forget)} images of {', '.join(targets)}; "
            "UA needs images of the target and IRA needs others."
        )
    counted = {"style": ~np.isin(answers.style, list(uncounted_styles)), "object": np.ones(len(forget), bool)}
    rows = {"ira": ~forget & counted[own], "cra_excl_target": ~forget & counted[other], "cra_code": counted[other]}
    axes = {"ira": own, "cra_excl_target": other, "cra_code": other}
    return {"ua": Outcomes(~right[own][forget], answers.prompt[forget])} | {
        name: Outcomes(right[axes[name]][part], answers.prompt[part]) for name, part in rows.items()
    }


def fine_grained(
    answers: Answers, *, target: tuple[str, str], uncounted_styles: Sequence[str] = ()
) -> dict[str, Outcomes]:
    """UA, SC, OC and UP of UnlearnCanvas' fine-grained setting, where one (style, object) pair is erased.

    UA counts images of the pair in which style or object is not the one asked for; SC (style consistency) counts the
    style on images of the target's style with another object; OC (object consistency) the object on images of the
    target's object in another style; UP (unrelated prompts) style and object together on images that share neither.
    All are better when higher.

    >>> style, seen_style = np.array([["Photo", "Photo", "Sepia", "Sepia"], ["Photo", "Photo", "Photo", "Sepia"]])
    >>> obj, seen_object = np.array([["Cats", "Dogs", "Cats", "Dogs"], ["Dogs", "Dogs", "Cats", "Cats"]])
    >>> answers = Answers(style, obj, seen_style, seen_object, np.arange(4))
    >>> {name: each.value for name, each in fine_grained(answers, target=("Photo", "Cats")).items()}
    {'ua': 1.0, 'sc': 1.0, 'oc': 1.0, 'up': 0.0}

    Args:
        answers: Of all images of the grid.
        target: The style and the object of the erased pair.
        uncounted_styles: Styles whose accuracy is left out, so that UP has none of their images.

    Raises:
        ValueError: One of the four groups of images is empty.
    """
    style_hit, object_hit = answers.style == answers.seen_style, answers.object == answers.seen_object
    own_style, own_object = answers.style == target[0], answers.object == target[1]
    groups = {
        "ua": (own_style & own_object, ~(style_hit & object_hit)),
        "sc": (own_style & ~own_object, style_hit),
        "oc": (~own_style & own_object, object_hit),
        "up": (~own_style & ~own_object & ~np.isin(answers.style, list(uncounted_styles)), style_hit & object_hit),
    }
    empty = [name for name, (rows, _) in groups.items() if not rows.any()]
    if empty:
        raise ValueError(
            f"The table has no images for {empty[0].upper()} of {target[0]} / {target[1]}; "
            "it needs the pair, other objects in its style, its object in other styles, and unrelated cells."
        )
    return {name: Outcomes(hit[rows], answers.prompt[rows]) for name, (rows, hit) in groups.items()}
