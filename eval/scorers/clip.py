"""CLIP score: cosine between an image and its prompt, per image, neither scaled nor clamped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image


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
        self.model.eval()  # open_clip hands models out in training mode
        self.tokenize = open_clip.get_tokenizer(name)
        self.batch_size = config.batch_size

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Cosine of each image with its own prompt: (n,) in [-1, 1], higher is better."""
        return self.align(self.features(images), prompts)

    def align(self, features: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """The same from image features (n, D) that ``features`` gave."""
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        rows = [place[prompt] for prompt in prompts]
        with torch.no_grad():
            encoded = torch.cat([self.model.encode_text(self.tokenize(chunk)) for chunk in self._chunks(distinct)])
        texts = torch.nn.functional.normalize(encoded.float(), dim=1).numpy()
        return (features * texts[rows]).sum(1)

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Image features of unit length: (n, D) float32."""
        with torch.no_grad():
            seen = torch.cat(
                [
                    self.model.encode_image(torch.stack([self.preprocess(image.convert("RGB")) for image in chunk]))
                    for chunk in self._chunks(images)
                ]
            )
        return torch.nn.functional.normalize(seen.float(), dim=1).numpy()

    def _chunks(self, values: Sequence) -> list[Sequence]:
        return [values[start : start + self.batch_size] for start in range(0, len(values), self.batch_size)]


def load(config: Config) -> ClipScore:
    """Load the model.

    Raises:
        FileNotFoundError: an architecture name without a weights file on this machine.
    """
    return ClipScore(config)
