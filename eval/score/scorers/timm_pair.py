"""A judge of two timm classifiers, one of styles and one of objects, from checkpoint files of the user's.

UnlearnCanvas (arXiv 2402.11846) publishes such a pair of ViT-L/16 for its world. The file names are a trap: there
``style50.pth`` is the style classifier (51 classes) and ``style50_cls.pth`` the object classifier (20 classes).
"""

from eval.score.scorer import Scorer
from eval.score.timm_files import Config
from eval.score.weights import ABSENT
from eval.suite.suite import Suite


COLUMNS = ("judge_style", "judge_object", "style_scores", "object_scores")
ARRAYS = ("judge",)  # (n, D), pooled features of both, side by side


def missing(config: Config) -> str:
    """Without files nothing is judged."""
    return "" if config.style else ABSENT


def load(config: Config, *, suite: Suite, device: str) -> Scorer:
    """Load the pair for the world of the suite's grid.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The suite has no grid, or see ``TimmNetworks``.
    """
    from eval.score.timm_classifier import TimmClassifier, TimmNetworks

    if suite.grid is None:
        raise ValueError(f"The suite {suite.name!r} has no grid, so timm_pair has no styles and objects: leave it out.")
    world = suite.grid.load_world()
    return TimmClassifier(TimmNetworks(config, world, device=device), world, config, compat=suite.grid.compat)
