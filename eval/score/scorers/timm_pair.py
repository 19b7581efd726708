"""A judge of two timm classifiers, one of styles and one of objects, from checkpoint files of the user's.

UnlearnCanvas (arXiv 2402.11846) publishes such a pair of ViT-L/16 for its world. The file names are a trap: there
``style50.pth`` is the style classifier (51 classes) and ``style50_cls.pth`` the object classifier (20 classes).
"""

from dataclasses import dataclass

from eval.limits import TAU
from eval.score.scorer import Scorer
from eval.score.weights import ABSENT
from eval.suite.suite import Suite


COLUMNS = ("judge_style", "judge_object", "style_scores", "object_scores")
ARRAYS = ("judge",)  # (n, D), pooled features of both, side by side


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which files.

    Attributes:
        style: Checkpoint of the style classifier, a state dict or a dict that holds one as ``model_state_dict``.
        object: The same of the object classifier; both files or none.
        labels: JSON file ``{"style": [...], "object": [...]}`` with the order of the checkpoints' classes; empty for
            the order of the world.
        architecture: Name of a timm architecture; it also sets the size of the images.
        batch_size: Images per forward.
        tau: Below this confidence on both axes an image shows nothing that the judge recognises.
    """

    style: str = ""
    object: str = ""
    labels: str = ""
    architecture: str = "vit_large_patch16_224"
    batch_size: int = 32
    tau: float = TAU

    def __post_init__(self) -> None:
        """Refuse half a pair."""
        if bool(self.style) != bool(self.object):
            have, lack = ("style", "object") if self.style else ("object", "style")
            raise ValueError(f"The judge has a {have} checkpoint but no {lack} checkpoint: give both files or none.")
        if self.batch_size < 1:
            raise ValueError(f"The judge has the batch_size {self.batch_size}: at least 1 is needed.")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"The scorer timm_pair has tau {self.tau}: a confidence from 0 to 1 is needed.")


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
