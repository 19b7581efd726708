"""A judge of two timm classifiers, one of styles and one of objects, from checkpoint files of the user's.

UnlearnCanvas (arXiv 2402.11846) publishes such a pair of ViT-L/16 for its world. The file names are a trap: there
``style50.pth`` is the style classifier (51 classes) and ``style50_cls.pth`` the object classifier (20 classes).
"""

import importlib.metadata
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from eval.draw.manifest import sha256
from eval.score.scorers.lpips import read_state
from eval.suite.world import World


STATE = "model_state_dict"  # key of the state dict in the benchmark's checkpoints
JPEG_QUALITY = 75  # PIL's default, with which the benchmark's samplers save the images that its judge reads
KINDS = ("style", "object")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which files.

    Args:
        style: checkpoint of the style classifier, a state dict or a dict that holds one as ``model_state_dict``.
        object: the same of the object classifier; both files or none.
        labels: JSON file ``{"style": [...], "object": [...]}`` with the order of the checkpoints' classes; empty for
            the order of the world.
        architecture: name of a timm architecture; it sets the size of the images, too.
        batch_size: images per forward.
    """

    style: str = ""
    object: str = ""
    labels: str = ""
    architecture: str = "vit_large_patch16_224"
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse half a pair."""
        if bool(self.style) != bool(self.object):
            have, lack = ("style", "object") if self.style else ("object", "style")
            raise ValueError(f"The judge has a {have} checkpoint but no {lack} checkpoint: give both files or none.")
        if self.batch_size < 1:
            raise ValueError(f"The judge has the batch_size {self.batch_size}: at least 1 is needed.")

    @property
    def has_weights(self) -> bool:
        """Whether files are given; without them nothing is judged."""
        return bool(self.style)


class Output(NamedTuple):
    """What the pair says about a batch, on the CPU."""

    style_logits: torch.Tensor  # (B, styles), in the order of the world
    object_logits: torch.Tensor  # (B, objects)
    features: torch.Tensor  # (B, D), pooled features of both, side by side


class TimmPair(nn.Module):
    """Two classifiers in evaluation mode."""

    def __init__(self, config: Config, world: World, *, compat: bool, device: str) -> None:
        """Load the weights; see ``load``."""
        super().__init__()
        orders = _read_orders(config.labels, world)
        opened = {kind: _open(getattr(config, kind), kind, config.architecture, world) for kind in KINDS}
        self.models = nn.ModuleDict(opened)
        # column j of the result is the class of the world's label j
        self.places = {kind: [orders[kind].index(label) for label in world.labels(kind)] for kind in KINDS}
        self.side = tuple(opened["style"].pretrained_cfg["input_size"][1:])  # (H, W)
        self.compat = compat
        jpeg = f"JPEG of quality {JPEG_QUALITY}, " if compat else ""
        self.card = {
            "judge": "timm_pair",
            "architecture": config.architecture,
            "timm": importlib.metadata.version("timm"),
            "weights_sha256": {kind: sha256(Path(getattr(config, kind))) for kind in KINDS},
            "labels": config.labels or f"the order of the world {world.name}; checked by the number of classes only",
            "labels_sha256": sha256(Path(config.labels)) if config.labels else "",
            "preprocessing": f"{jpeg}PIL bilinear to {self.side[0]} x {self.side[1]} without crop, mean 0.5, std 0.5",
        }
        self.requires_grad_(False).eval().to(device)

    def prepare(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images of any sizes as the benchmark's ``accuracy.py`` prepares them: (B, 3, H, W) in [-1, 1]."""
        height, width = self.side
        seen = [_as_saved(image) if self.compat else image.convert("RGB") for image in images]
        small = [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in seen]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def forward(self, batch: torch.Tensor) -> Output:
        """Judge prepared images (B, 3, H, W)."""
        logits, pooled = {}, {}
        model: Any  # timm's own methods are on it
        for kind, model in self.models.items():
            at_model = batch.to(next(model.parameters()).device)
            pooled[kind] = model.forward_head(model.forward_features(at_model), pre_logits=True)
            logits[kind] = model.get_classifier()(pooled[kind])[:, self.places[kind]].cpu()
        return Output(logits["style"], logits["object"], torch.cat([pooled[kind].cpu() for kind in KINDS], 1))


def load(config: Config, world: World, *, compat: bool = False, device: str = "cpu") -> TimmPair:
    """Load the pair.

    Args:
        config: which files.
        world: whose labels the classes are.
        compat: see each image as the benchmark's judge does, after JPEG compression.
        device: where the pair runs.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: an unknown architecture, a file that holds something else, or classes that are not the world's.
    """
    return TimmPair(config, world, compat=compat, device=device)


def _open(path: str, kind: str, architecture: str, world: World) -> Any:  # noqa: ANN401 - with timm's methods
    import timm  # it imports every architecture it knows, which takes seconds

    if not timm.is_model(architecture):
        raise ValueError(f"timm {timm.__version__} has no architecture {architecture!r}; name one that it has.")
    labels = world.labels(kind)
    model: Any = timm.create_model(architecture, pretrained=False, num_classes=len(labels))
    state = read_state(Path(path), f"{kind} classifier's", inner=STATE)
    head = f"{model.pretrained_cfg['classifier']}.weight"
    if head not in state:
        raise ValueError(f"{path} has no {head}, so it is no classifier {architecture}; name the architecture it has.")
    found = len(state[head])
    if found != len(labels):
        other = next(each for each in KINDS if each != kind)
        hint = f"; that is the number of {other}s: are both files swapped?" if found == len(world.labels(other)) else ""
        raise ValueError(
            f"The {kind} checkpoint {path} has {found} classes, but the world {world.name} has {len(labels)} {kind}s"
            f"{hint or '; give a checkpoint with one class for each.'}"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no checkpoint of {architecture} ({told}): name the right architecture.") from error
    return model


def _read_orders(path: str, world: World) -> dict[str, list[str]]:
    """The labels of the checkpoints' classes, by kind."""
    if not path:
        return {kind: list(world.labels(kind)) for kind in KINDS}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The label file {path} is not JSON ({error}); write the labels as two lists.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in KINDS):
        raise ValueError(f'The label file {path} must hold {{"style": [...], "object": [...]}}; write both lists.')
    for kind in KINDS:
        given, known = content[kind], world.labels(kind)
        odd = next((label for label in given if label not in known or given.count(label) > 1), None)
        if odd is not None or len(given) != len(known):
            told = f"with {odd!r} unknown or twice among them" if odd is not None else "of which some are missing"
            raise ValueError(
                f"The label file {path} has {len(given)} {kind}s, {told}; the world {world.name} has {len(known)}: "
                f"{', '.join(known)}."
            )
    return content


def _as_saved(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as seen:
        return seen.convert("RGB")
