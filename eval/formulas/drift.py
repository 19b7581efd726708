"""How far an image moved from the base's image of the same prompt and seed. Lower is closer; 0 is the same image."""

import numpy as np


def rms_drift(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference of paired rows (n, ...), such as pixels or latents, in their own unit: (n,).

    >>> rms_drift(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[3.0, 3.0], [1.0, 1.0]])).tolist()
    [3.0, 0.0]

    Raises:
        ValueError: arrays of unequal shape.
    """
    gap = _paired(first, second)
    return np.sqrt((gap.reshape(len(gap), -1) ** 2).mean(1))


def cosine_drift(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 - cosine of paired feature vectors (n, D), 0 to 2: (n,).

    >>> cosine_drift(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 0.0], [0.0, 1.0]])).tolist()
    [0.0, 1.0]

    Raises:
        ValueError: arrays of unequal shape.
    """
    _paired(first, second)
    one, other = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second))
    return np.clip(1 - (one * other).sum(1), 0, 2)


def _paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.shape != second.shape:
        raise ValueError(
            f"Got {first.shape} and {second.shape} values; drift compares row by row, so give equal shapes."
        )
    return np.asarray(first, np.float64) - np.asarray(second, np.float64)
