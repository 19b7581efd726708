"""The networks behind the scorer ``timm_pair``: two timm classifiers, opened from checkpoint files of the user's."""

import importlib.metadata
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from eval.files import sha256
from eval.score.classifier import Classifier
from eval.score.scorer import Picture
from eval.score.timm_files import Config
from eval.score.weights import read_state
from eval.suite.world import World


STATE = "model_state_dict"  # key of the state dict in the benchmark's checkpoints
KINDS = ("style", "object")
JPEG_QUALITY = 75  # PIL's default, with which the benchmark's samplers save the images that its judge reads


class Output(NamedTuple):
    """What the pair says about a batch, on the CPU."""

    style_logits: torch.Tensor  # (B, styles), in the order of the world
    object_logits: torch.Tensor  # (B, objects)
    features: torch.Tensor  # (B, D), pooled features of both, side by side


class TimmNetworks(nn.Module):
    """Two classifiers in evaluation mode."""

    def __init__(self, config: Config, world: World, *, device: str) -> None:
        """Load the weights.

        Args:
            config: Which files.
            world: The classes are its labels.
            device: Where the networks run.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: An unknown architecture, a file that holds something else, or classes that are not the world's.
        """
        super().__init__()
        orders = _read_orders(config.labels, world)
        opened = {kind: _open(getattr(config, kind), kind, config.architecture, world) for kind in KINDS}
        self.models = nn.ModuleDict(opened)
        # column j of the result is the class of the world's label j
        self.places = {kind: [orders[kind].index(label) for label in world.labels(kind)] for kind in KINDS}
        self.side = tuple(opened["style"].pretrained_cfg["input_size"][1:])  # (H, W)
        self.card: dict[str, Any] = {
            "judge": "timm_pair",
            "architecture": config.architecture,
            "timm": importlib.metadata.version("timm"),
            "weights_sha256": {kind: sha256(Path(getattr(config, kind))) for kind in KINDS},
            "labels": config.labels or f"the order of the world {world.name}; checked by the number of classes only",
            "labels_sha256": sha256(Path(config.labels)) if config.labels else "",
        }
        self.requires_grad_(False).eval().to(device)

    def forward(self, batch: torch.Tensor) -> Output:
        """Judge images (B, 3, H, W) in [-1, 1] of the networks' own size."""
        logits, pooled = {}, {}
        model: Any  # timm's own methods are on it
        for kind, model in self.models.items():
            at_model = batch.to(next(model.parameters()).device)
            pooled[kind] = model.forward_head(model.forward_features(at_model), pre_logits=True)
            logits[kind] = model.get_classifier()(pooled[kind])[:, self.places[kind]].cpu()
        return Output(logits["style"], logits["object"], torch.cat([pooled[kind].cpu() for kind in KINDS], 1))


class TimmClassifier(Classifier):
    """Judges images of any sizes, each prepared as the benchmark's ``accuracy.py`` does it."""

    is_one_object = True
    network: TimmNetworks

    def __init__(self, network: TimmNetworks, world: World, config: Config, *, compat: bool) -> None:
        """Keep loaded networks.

        Args:
            network: Both.
            world: The classes are its labels.
            config: For ``tau`` and the batch size.
            compat: See each image as the benchmark's judge does, after JPEG compression.
        """
        self.compat = compat
        height, width = network.side
        jpeg = f"JPEG of quality {JPEG_QUALITY}, " if compat else ""
        steps = f"{jpeg}PIL bilinear to {height} x {width} without crop, mean 0.5, std 0.5"
        network.card = network.card | {"preprocessing": steps}
        super().__init__(
            network, world.labels("style"), world.labels("object"), tau=config.tau, batch_size=config.batch_size
        )

    def prepare(self, picture: Picture) -> np.ndarray:
        """Pixels (H, W, 3) of the networks' size."""
        height, width = self.network.side
        image = _as_saved(picture.image) if self.compat else picture.image
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    def _identify(self) -> dict[str, object]:
        """The card has the hashes of the files: hashing two ViT-L/16 tensor by tensor as well would take seconds."""
        return {
            "card": {name: value for name, value in self.card.items() if name != "labels"},
            "classes": [self.styles, self.objects],
        }


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
    classes = len(state[head])
    if classes != len(labels):
        other = next(each for each in KINDS if each != kind)
        swapped = f"; that is the number of {other}s: are both files swapped?"
        hint = swapped if classes == len(world.labels(other)) else "; give a checkpoint with one class for each."
        raise ValueError(
            f"The {kind} checkpoint {path} has {classes} classes, but the world {world.name} has {len(labels)} "
            f"{kind}s{hint}"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is no checkpoint of {architecture} ({reason}): name the right architecture."
        ) from error
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
        given, labels = content[kind], world.labels(kind)
        odd = next((label for label in given if label not in labels or given.count(label) > 1), None)
        if odd is not None or len(given) != len(labels):
            reason = f"and {odd!r} is unknown or twice among them" if odd is not None else "so some are missing"
            raise ValueError(
                f"The label file {path} has {len(given)} {kind}s, {reason}; the world {world.name} has {len(labels)}: "
                f"{', '.join(labels)}."
            )
    return content


def _as_saved(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as saved:
        return saved.convert("RGB")
