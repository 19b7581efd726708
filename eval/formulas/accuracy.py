"""UA, IRA and CRA of UnlearnCanvas (arXiv 2402.11846) from a complete table with one row per image.

For a style target: UA = 1 - style accuracy on the images that ask for the target, IRA = style accuracy on all other
images, CRA = object accuracy. For an object target the axes change places. Every cell holds the same number of images,
so the mean over images and the mean over concepts are the same number. All are better when higher.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Outcomes(NamedTuple):
    """One yes or no per image, and the cell (the prompt) that each image belongs to; the metric is the mean."""

    hit: np.ndarray  # (n,) bool
    cell: np.ndarray  # (n,) int

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
    style: np.ndarray,
    obj: np.ndarray,
    predicted_style: np.ndarray,
    predicted_object: np.ndarray,
    *,
    kind: str,
    targets: Sequence[str],
    uncounted_styles: Sequence[str] = (),
) -> dict[str, Outcomes]:
    """The outcomes behind UA, IRA and both conventions of CRA.

    Args:
        style: the style that each image was asked for, (n,) names.
        obj: the object that each image was asked for, (n,) names.
        predicted_style: what the judge sees, (n,) names.
        predicted_object: what the judge sees, (n,) names.
        kind: style or object.
        targets: the erased concepts of that kind.
        uncounted_styles: styles whose accuracy is left out of the mean over the retained styles (IRA of a style target,
            both CRA of an object target), as UnlearnCanvas leaves out photos; the objects in them count.

    ``cra_excl_target`` leaves out the images that ask for the target, as the benchmark's text says; ``cra_code`` counts
    all images, as its published code does.

    >>> style, seen_style = np.array([["Photo", "Photo", "Sepia", "Sepia"], ["Photo", "Sepia", "Photo", "Sepia"]])
    >>> obj, seen_object = np.array([["Cats", "Dogs", "Cats", "Dogs"], ["Cats", "Cats", "Cats", "Dogs"]])
    >>> result = unlearn_canvas(style, obj, seen_style, seen_object, kind="style", targets=["Sepia"])
    >>> {name: outcomes.value for name, outcomes in result.items()}
    {'ua': 0.5, 'ira': 0.5, 'cra_excl_target': 0.5, 'cra_code': 0.75}

    Raises:
        ValueError: a kind that is not style or object, or a table without images of the target.
    """
    if kind not in ("style", "object"):
        raise ValueError(f"UA, IRA and CRA exist for a style or an object, not for a {kind!r}; use another suite.")
    style_hit, object_hit = style == predicted_style, obj == predicted_object
    asked = style if kind == "style" else obj
    own_hit, cross_hit = (style_hit, object_hit) if kind == "style" else (object_hit, style_hit)
    forget = np.isin(asked, list(targets))
    if not forget.any() or forget.all():
        raise ValueError(
            f"The table has {int(forget.sum())} of {len(forget)} images of {', '.join(targets)}; "
            "UA needs images of the target and IRA needs others."
        )
    cell = cell_index(style, obj)
    counted = ~np.isin(style, list(uncounted_styles))
    own, cross = (counted, np.ones_like(counted)) if kind == "style" else (np.ones_like(counted), counted)
    return {
        "ua": Outcomes(~own_hit[forget], cell[forget]),
        "ira": Outcomes(own_hit[~forget & own], cell[~forget & own]),
        "cra_excl_target": Outcomes(cross_hit[~forget & cross], cell[~forget & cross]),
        "cra_code": Outcomes(cross_hit[cross], cell[cross]),
    }


def fine_grained(
    style: np.ndarray,
    obj: np.ndarray,
    predicted_style: np.ndarray,
    predicted_object: np.ndarray,
    *,
    target: tuple[str, str],
    uncounted_styles: Sequence[str] = (),
) -> dict[str, Outcomes]:
    """UA, SC, OC and UP of UnlearnCanvas' fine-grained setting, where one (style, object) pair is erased.

    UA counts images of the pair in which style or object is not the one asked for; SC (style consistency) counts the
    style on images of the target's style with another object; OC (object consistency) the object on images of the
    target's object in another style; UP (unrelated prompts) style and object together on images that share neither.
    All are better when higher.

    >>> style, seen_style = np.array([["Photo", "Photo", "Sepia", "Sepia"], ["Photo", "Photo", "Photo", "Sepia"]])
    >>> obj, seen_object = np.array([["Cats", "Dogs", "Cats", "Dogs"], ["Dogs", "Dogs", "Cats", "Cats"]])
    >>> result = fine_grained(style, obj, seen_style, seen_object, target=("Photo", "Cats"))
    >>> {name: outcomes.value for name, outcomes in result.items()}
    {'ua': 1.0, 'sc': 1.0, 'oc': 1.0, 'up': 0.0}

    Args:
        style: the style that each image was asked for, (n,) names.
        obj: the object that each image was asked for, (n,) names.
        predicted_style: what the judge sees, (n,) names.
        predicted_object: what the judge sees, (n,) names.
        target: the style and the object of the erased pair.
        uncounted_styles: styles whose accuracy is left out, so that UP has none of their images.

    Raises:
        ValueError: one of the four groups of images is empty.
    """
    style_hit, object_hit = style == predicted_style, obj == predicted_object
    own_style, own_object = style == target[0], obj == target[1]
    groups = {
        "ua": (own_style & own_object, ~(style_hit & object_hit)),
        "sc": (own_style & ~own_object, style_hit),
        "oc": (~own_style & own_object, object_hit),
        "up": (~own_style & ~own_object & ~np.isin(style, list(uncounted_styles)), style_hit & object_hit),
    }
    empty = [name for name, (rows, _) in groups.items() if not rows.any()]
    if empty:
        raise ValueError(
            f"The table has no images for {empty[0].upper()} of {target[0]} / {target[1]}; "
            "it needs the pair, other objects in its style, its object in other styles, and unrelated cells."
        )
    cell = cell_index(style, obj)
    return {name: Outcomes(hit[rows], cell[rows]) for name, (rows, hit) in groups.items()}


def cell_index(style: np.ndarray, obj: np.ndarray) -> np.ndarray:
    """Number the cells that occur.

    >>> cell_index(np.array(["a", "a", "b"]), np.array(["x", "x", "x"])).tolist()
    [0, 0, 1]
    """
    names = np.array([f"{one}\n{other}" for one, other in zip(style, obj, strict=True)])
    return np.unique(names, return_inverse=True)[1]
