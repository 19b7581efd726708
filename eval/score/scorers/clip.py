"""CLIP score: cosine between an image and its prompt, per image, neither scaled nor clamped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.files import hash_weights
from eval.formulas.drift import cosine_drift
from eval.score.scorer import Batch, Picture, Scorer
from eval.score.store import Key, Store, score_once
from eval.score.weights import ABSENT
from eval.suite.rows import Row
from eval.suite.suite import Suite


if TYPE_CHECKING:
    import torch
    from torch import nn

    from eval.draw.drawn import Drawn


COLUMNS = ("clip", "drift_clip")
ARRAYS = ("clip", "clip_texts")  # (n, D) of unit length: of the images and of their prompts
LOCAL = "local-dir:"  # before a folder, as open_clip writes it


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which open_clip model; it is not run if ``model`` is empty.

    Attributes:
        model: ``canvas``, ``local-dir:FOLDER``, or the name of an open_clip architecture.
        pretrained: Weights file of an architecture, on this machine.
        force_quick_gelu: For OpenAI's weights under a plain name.
    """

    model: str = ""
    pretrained: str = ""
    force_quick_gelu: bool = False


class Clip(Scorer):
    """Scores images against prompts."""

    def __init__(self, config: Config, *, device: str) -> None:
        """Load the model; see ``load``."""
        import open_clip

        name = config.model
        if name == "canvas":
            from erase.canvas.towers import clip_folder

            name = f"{LOCAL}{clip_folder()}"
        if not name.startswith(LOCAL) and not Path(config.pretrained).is_file():
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
        self.model.eval().to(device)  # open_clip hands models out in training mode
        self.tokenize = open_clip.get_tokenizer(name)
        self.device = device
        self.identity = {
            "architecture": "" if name.startswith(LOCAL) else name,
            "weights_sha256": hash_weights(config.pretrained or name.removeprefix(LOCAL)),
            "force_quick_gelu": config.force_quick_gelu,
        }
        self.card = {"model": config.model, **self.identity}

    def networks(self) -> list["nn.Module"]:
        """The parts of the model, which is not called as a whole."""
        return list(self.model.children())

    def begin(self, rows: Sequence[Row], base: "Drawn") -> Batch:
        """Features of the prompts, each distinct prompt encoded once and kept beside the base's images."""
        prompts = [row.prompt for row in rows]
        distinct = list(dict.fromkeys(prompts))
        places = {prompt: place for place, prompt in enumerate(distinct)}
        store, keys = Store(base.folder, "clip_texts", self.identity), [Key("", prompt) for prompt in distinct]
        texts = score_once(store, keys, lambda chunk: self.texts(distinct[chunk]), batch_size=self.batch_size)
        return Batch(arrays={"clip_texts": np.stack(texts)[[places[prompt] for prompt in prompts]]})

    def prepare(self, picture: Picture) -> "torch.Tensor":
        """The image as the model takes it, (3, H, W)."""
        return self.preprocess(picture.image)

    def score(self, images: Sequence["torch.Tensor"], rows: Sequence[Row]) -> Batch:
        """Features of images, of unit length: (n, D) float32."""
        import torch

        with torch.no_grad():
            return Batch(arrays={"clip": _unit(self.model.encode_image(torch.stack(list(images)).to(self.device)))})

    def finish(self, own: Batch, base: Batch | None, rows: Sequence[Row]) -> Batch:
        """The cosine of each image with its prompt, and how far it turned away from the base's image."""
        images, texts = own.arrays["clip"], own.arrays["clip_texts"]
        columns: dict[str, Any] = {"clip": [round(float(value), 6) for value in (images * texts).sum(1)]}
        if base is not None:
            columns["drift_clip"] = [round(float(value), 6) for value in cosine_drift(images, base.arrays["clip"])]
        return Batch(columns, own.arrays)

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Features of prompts, of unit length: (n, D) float32."""
        import torch

        with torch.no_grad():
            return _unit(self.model.encode_text(self.tokenize(list(prompts)).to(self.device)))


def missing(config: Config) -> str:
    """A suite may leave its model to the user."""
    return "" if config.model else ABSENT


def load(config: Config, *, suite: Suite, device: str) -> Clip:
    """Load the model.

    Raises:
        FileNotFoundError: An architecture's name without a weights file on this machine.
    """
    return Clip(config, device=device)


def _unit(features: "torch.Tensor") -> np.ndarray:
    from torch.nn.functional import normalize

    return normalize(features.float(), dim=1).cpu().numpy()
