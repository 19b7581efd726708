"""The canvas judge: which style and which objects a picture shows, trained on pictures that the generator never saw."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from erase.canvas.autoencoder import to_pixels
from erase.canvas.dataset import Pictures
from erase.canvas.training import fit
from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES


FEATURES = 128


class JudgeOutput(NamedTuple):
    """Raw scores: a softmax over styles, a sigmoid per object, and the features beneath them."""

    style_logits: torch.Tensor  # (B, 10)
    object_logits: torch.Tensor  # (B, 12)
    features: torch.Tensor  # (B, FEATURES)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), _Residual(outputs)
    )


class Judge(nn.Module):
    """A small residual network with one head per axis; ``card`` holds its accuracies on held-out real pictures."""

    def __init__(self, card: dict[str, Any] | None = None) -> None:
        """Build at random."""
        super().__init__()
        self.card = card or {}
        self.trunk = nn.Sequential(_down(3, 24), _down(24, 48), _Residual(48), _down(48, FEATURES))
        self.style = nn.Linear(FEATURES, len(STYLE_NAMES))
        self.object = nn.Linear(FEATURES, len(OBJECT_NAMES))

    def forward(self, pixels: torch.Tensor) -> JudgeOutput:
        """Judge pixels (B, 3, 48, 48) in [-1, 1]."""
        places = self.trunk(pixels).permute(0, 2, 3, 1)  # (B, 6, 6, FEATURES)
        features = places.mean((1, 2))
        # a soft maximum over places: an object that fills a part of the picture counts in full
        objects = self.object(places).flatten(1, 2)
        return JudgeOutput(self.style(features), objects.logsumexp(1) - math.log(objects.shape[1]), features)


def folder() -> Path:
    """Where the judge's weights and card lie."""
    return Path(__file__).parent / "weights" / "judge"


def load_judge() -> Judge:
    """The shipped judge, in evaluation mode.

    Raises:
        FileNotFoundError: the canvas weights are not there.
    """
    path = folder() / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; reinstall the package or run `erase canvas train`.")
    judge = Judge(json.loads((folder() / "card.json").read_text()))
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval().requires_grad_(False)


def train(pictures: Pictures, work: Path, *, steps: int = 3000, seed: int = 0) -> Judge:
    """Train with shifts, blur and noise, since generated pictures are softer than rendered ones."""
    torch.manual_seed(seed)
    judge = Judge()
    images = torch.from_numpy(pictures.images)
    style, objects = torch.from_numpy(pictures.style), object_targets(pictures)

    def loss(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(images), (64,), generator=generator)
        scores = judge(_degrade(to_pixels(images[rows]), generator))
        aims = F.binary_cross_entropy_with_logits(scores.object_logits, objects[rows], reduction="none").sum(1).mean()
        return F.cross_entropy(scores.style_logits, style[rows]) + aims

    return fit(
        judge, loss, steps=steps, learning_rate=2e-3, weight_decay=0.05, seed=seed, path=work / "judge.safetensors"
    )


def object_targets(pictures: Pictures) -> torch.Tensor:
    """One where an object is shown, (N, 12)."""
    targets = np.zeros((len(pictures.first), len(OBJECT_NAMES)), np.float32)
    rows = np.arange(len(targets))
    targets[rows, pictures.first] = 1
    pairs = pictures.second >= 0
    targets[rows[pairs], pictures.second[pairs]] = 1
    return torch.from_numpy(targets)


@torch.no_grad()
def score(judge: Judge, images: torch.Tensor, batch: int = 250) -> JudgeOutput:
    """Judge uint8 pictures (N, S, S, 3) in batches."""
    parts = [judge(to_pixels(chunk)) for chunk in images.split(batch)]
    return JudgeOutput(*(torch.cat(values) for values in zip(*parts, strict=True)))


def save(judge: Judge, held_out: Pictures, out: Path) -> dict[str, Any]:
    """Write the weights in half precision and the card with the accuracies of exactly these weights."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(state, out / "model.safetensors")
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    card = accuracies(judge.eval(), held_out)
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def accuracies(judge: Judge, pictures: Pictures) -> dict[str, Any]:
    """Held-out accuracy per axis and sensitivity per class, one-object pictures; both objects found on pairs."""
    scores = score(judge, torch.from_numpy(pictures.images))
    single = pictures.second < 0
    style_hit = scores.style_logits.argmax(1).numpy() == pictures.style
    object_hit = scores.object_logits.argmax(1).numpy() == pictures.first
    found = (scores.object_logits > 0).float().numpy()
    both = (found == object_targets(pictures).numpy()).all(1)[~single]
    return {
        "schema_version": 1,
        "n": int(single.sum()),
        "style_accuracy": float(style_hit[single].mean()),
        "object_accuracy": float(object_hit[single].mean()),
        "style_sensitivity": {
            name: float(style_hit[single & (pictures.style == k)].mean()) for k, name in enumerate(STYLE_NAMES)
        },
        "object_sensitivity": {
            name: float(object_hit[single & (pictures.first == k)].mean()) for k, name in enumerate(OBJECT_NAMES)
        },
        "pairs": {"n": int((~single).sum()), "exactly_both_objects": float(both.mean())},
    }


def _degrade(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    dy, dx = torch.randint(-4, 5, (2,), generator=generator).tolist()
    padded = F.pad(pixels, (4, 4, 4, 4), mode="replicate")
    pixels = padded[..., 4 + dy : 4 + dy + pixels.shape[2], 4 + dx : 4 + dx + pixels.shape[3]]
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand((len(pixels), 1, 1, 1), generator=generator) * 0.7
    noise = 0.12 * torch.rand((len(pixels), 1, 1, 1), generator=generator)
    return pixels + share * (soft - pixels) + noise * torch.randn(pixels.shape, generator=generator)
