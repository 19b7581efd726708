"""The judge of the canvas, shipped with the package: which style and which objects it sees in each image."""

from dataclasses import dataclass

from eval.limits import TAU
from eval.score.scorer import Scorer
from eval.suite.suite import Suite


COLUMNS = ("judge_style", "judge_object", "style_scores", "object_scores")
ARRAYS = ("judge",)  # (n, D), features beneath the answers


@dataclass(frozen=True, kw_only=True)
class Config:
    """``tau``: below this confidence on both axes an image shows nothing that the judge recognises."""

    tau: float = TAU

    def __post_init__(self) -> None:
        """Refuse what is no confidence."""
        if not 0 <= self.tau <= 1:
            raise ValueError(f"The scorer judge has tau {self.tau}: a confidence from 0 to 1 is needed.")


def missing(config: Config) -> str:
    """Nothing: its weights come with the package."""
    return ""


def load(config: Config, *, suite: Suite, device: str) -> Scorer:
    """Load the judge; it is small and runs on the CPU."""
    from erase.canvas.judge import load_judge
    from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
    from eval.score.classifier import Classifier

    return Classifier(load_judge(), STYLE_NAMES, OBJECT_NAMES, tau=config.tau)
