"""What stands beside the target: the other nouns of its prompts, and the names that lie nearest to its own."""

from collections.abc import Sequence

import numpy as np

from eval.formulas.accuracy import Outcomes


def selective_alignment(visible: np.ndarray, asked: np.ndarray, erased: np.ndarray, prompt: np.ndarray) -> Outcomes:
    """HUB's selective alignment (arXiv 2410.05664): of the nouns asked for beside the target, which are visible.

    One outcome per image and noun, so an image of two other nouns counts twice in hits and in n alike; the published
    code divides nouns by prompts. Better when higher.

    >>> visible, asked = np.array([[1, 1, 0], [1, 0, 0]], bool), np.array([[1, 1, 0], [1, 0, 1]], bool)
    >>> selective_alignment(visible, asked, np.array([True, False, False]), np.array([0, 1])).value
    0.5

    Args:
        visible: whether the judge sees each noun, (n, N) bool.
        asked: whether the prompt asks for it, (n, N) bool.
        erased: whether it is the target, (N,) bool.
        prompt: number of the prompt of each image, (n,) int.

    Raises:
        ValueError: no prompt asks for a noun that is not erased.
    """
    rows, nouns = np.nonzero(asked & ~erased)
    if not len(rows):
        raise ValueError("No prompt asks for anything beside the target; selective alignment needs two nouns a prompt.")
    return Outcomes(visible[rows, nouns], prompt[rows])


def nearest_names(features: np.ndarray, names: Sequence[str], targets: Sequence[str], k: int) -> list[str]:
    """The k names that are not targets and lie nearest to one of them by cosine, the nearest first.

    >>> nearest_names(np.array([[1, 0], [0.9, 0.1], [0, 1], [0.7, 0.7]]), ["Cats", "Dogs", "Sea", "Birds"], ["Cats"], 2)
    ['Dogs', 'Birds']

    Args:
        features: text features of the names, (N, D).
        names: N names.
        targets: what is erased, all of them among ``names``.
        k: how many neighbours.

    Raises:
        ValueError: an unknown target, or k outside 1 and the number of other names.
    """
    absent = [name for name in targets if name not in names]
    if absent:
        raise ValueError(f"There are no text features of {absent[0]!r}; there are those of {', '.join(names)}.")
    others = [name for name in names if name not in targets]
    if not 1 <= k <= len(others):
        raise ValueError(f"Got {k} neighbours of {len(others)} other names; choose 1 to {len(others)}.")
    unit = np.asarray(features, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    place = {name: index for index, name in enumerate(names)}
    closeness = (unit @ unit[[place[name] for name in targets]].T).max(1)  # (N,)
    return sorted(others, key=lambda name: -closeness[place[name]])[:k]
