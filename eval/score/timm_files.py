"""Which checkpoint files the scorer ``timm_pair`` reads; no torch is imported."""

from dataclasses import dataclass

from eval.limits import TAU


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
