"""CLIP score: cosine between an image and its prompt, per image, neither scaled nor clamped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from eval.draw.manifest import hash_weights


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which open_clip model.

    ``model`` is ``canvas``, ``local-dir:FOLDER`` or the name of an open_clip architecture; the last needs
    ``pretrained``, a weights file on this machine. ``force_quick_gelu`` is for OpenAI's weights under a plain name.
    """

    model: str = "canvas"
    pretrained: str = ""
    force_quick_gelu: bool = False
    batch_size: int = 128
    device: str = "cpu"


class ClipScore:
    """Score images against prompts."""

    def __init__(self, config: Config) -> None:
        """Load the model; see ``load``."""
        name = config.model
        if name == "canvas":
            from erase.canvas.towers import clip_folder

            name = f"local-dir:{clip_folder()}"
        if not name.startswith("local-dir:") and not Path(config.pretrained).is_file():
            raise FileNotFoundError(
                f"The CLIP model {name!r} needs its weights on this machine, but pretrained is {config.pretrained!r}; "
                "give the path of a weights file."
            )
        # without require_pretrained, open_clip only warns about missing weights and scores with random ones
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=config.pretrained or None,
            force_quick_gelu=config.force_quick_gelu,
            require_pretrained=True,
        )
        self.model.eval().to(config.device)  # open_clip hands models out in training mode
        self.tokenize = open_clip.get_tokenizer(name)
        self.batch_size = config.batch_size
        self.device = config.device
        self.identity = {
            "architecture": "" if name.startswith("local-dir:") else name,
            "weights_sha256": hash_weights(config.pretrained or name.removeprefix("local-dir:")),
            "force_quick_gelu": config.force_quick_gelu,
        }

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Cosine of each image with its own prompt: (n,) in [-1, 1], higher is better."""
        return self.align(self.features(images), prompts)

    def align(self, features: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """The same from image features (n, D) that ``features`` gave."""
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        return (features * self.texts(distinct)[[place[prompt] for prompt in prompts]]).sum(1)

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Features of prompts, of unit length: (n, D) float32."""
        with torch.no_grad():
            chunks = [self.tokenize(chunk).to(self.device) for chunk in self._chunks(prompts)]
            encoded = torch.cat([self.model.encode_text(chunk) for chunk in chunks])
        return torch.nn.functional.normalize(encoded.float(), dim=1).cpu().numpy()

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Image features of unit length: (n, D) float32."""
        with torch.no_grad():
            seen = torch.cat([self.model.encode_image(self._prepare(chunk)) for chunk in self._chunks(images)])
        return torch.nn.functional.normalize(seen.float(), dim=1).cpu().numpy()

    def _prepare(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([self.preprocess(image.convert("RGB")) for image in images]).to(self.device)

    def _chunks(self, values: Sequence) -> list[Sequence]:
        return [values[start : start + self.batch_size] for start in range(0, len(values), self.batch_size)]


def load(config: Config) -> ClipScore:
    """Load the model.

    Raises:
        FileNotFoundError: an architecture name without a weights file on this machine.
    """
    return ClipScore(config)
