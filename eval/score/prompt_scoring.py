"""The scorers of a suite of prompt files, and what they say about the images of its models and about real ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image, ImageOps
from torch import nn

from eval.draw import manifest
from eval.formulas.nudity import Detection
from eval.measure.aggregate import WEIGHTS_ABSENT
from eval.measure.prompt_metrics import Scores
from eval.score.scorers import clip, inception, nudity, validity, vlm
from eval.score.scorers.nudity import Nudity
from eval.score.scorers.vlm import Config as VlmConfig
from eval.score.scorers.vlm import Vlm
from eval.score.scoring import Pictures, Scored, Scorers, score
from eval.score.store import image_keys, score_once
from eval.score.table import Table
from eval.score.weights import find_weights
from eval.suite.prompt_config import PromptSuiteConfig, asked_of
from eval.suite.rows import Row


PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class PromptScorers:
    """The scorers of a suite of prompt files; what has no weights is None."""

    images: Scorers
    nudity: Nudity | None = None
    vlm: Vlm | VlmConfig | None = None  # a Config is loaded where images are scored: a model of 8B takes 16 GB

    def asked(self, config: PromptSuiteConfig) -> "PromptScorers":
        """Return those that the suite asks for; its report has no place for others."""
        wants = config.scorers
        images = replace(
            self.images,
            clip=self.images.clip if "clip" in wants else None,
            inception=self.images.inception if "inception" in wants else None,
        )
        return PromptScorers(
            images=images,
            nudity=self.nudity if "nudity" in wants else None,
            vlm=self.vlm if "vlm" in wants else None,
        )

    def opened(self) -> "PromptScorers":
        """With the vision-language model loaded."""
        return replace(self, vlm=vlm.load(self.vlm)) if isinstance(self.vlm, VlmConfig) else self

    def networks(self) -> list[nn.Module]:
        """What the scorers spend their time in; see ``eval.score.scoring.Scorers.networks``."""
        found = self.images.networks()
        found += [self.nudity.network] if isinstance(self.nudity, Nudity) else []
        return found + ([self.vlm.model] if isinstance(self.vlm, Vlm) else [])

    def cards(self) -> dict[str, Any]:
        """What the detector, the vision-language model, once it is opened, and Inception say about themselves."""
        judges = {"nudity": self.nudity, "vlm": None if isinstance(self.vlm, VlmConfig) else self.vlm}
        return {name: judge.card if judge else WEIGHTS_ABSENT for name, judge in judges.items()} | self.images.cards()

    def is_complete(self, config: PromptSuiteConfig) -> bool:
        """Whether everything that the suite asks for is there."""
        there = {"nudity": self.nudity, "vlm": self.vlm, "clip": self.images.clip, "inception": self.images.inception}
        return all(there[name] is not None for name in config.scorers)


def load_scorers(config: PromptSuiteConfig, *, device: str = "cpu") -> PromptScorers:
    """Load the scorers of a suite; what has no weights is left out, and the vision-language model is only looked at.

    Weights on the hub are fetched.

    Args:
        config: The suite.
        device: Where the vision-language model, CLIP and Inception run; the others are small and run on the CPU.

    Raises:
        FileNotFoundError: weights, or a folder of real images, that do not exist.
        ValueError: weights of something else, or no real image in that folder.
    """
    wants, files = set(config.scorers), config.clip
    weights = find_weights(config.inception) if "inception" in wants else None
    if config.real_images:
        _photographs(Path(config.real_images))
    asks_vlm = "vlm" in wants and config.vlm
    if asks_vlm:
        vlm.open_processor(Path(config.vlm))
    return PromptScorers(
        vlm=VlmConfig(model=Path(config.vlm), device=device) if asks_vlm else None,
        nudity=nudity.load(nudity.Config()) if "nudity" in wants and nudity.is_installed() else None,
        images=Scorers(
            classifier=None,
            validity=validity.load(validity.Config()),
            clip=clip.load(clip.Config(**asdict(files), device=device)) if "clip" in wants and files.model else None,
            inception=inception.load(inception.Config(weights=weights, device=device)) if weights else None,
        ),
    )


def missing_weights(config: PromptSuiteConfig) -> list[str]:
    """The scorers of a suite that will not run, without loading or fetching any."""
    there = {
        "nudity": nudity.is_installed(),
        "vlm": bool(config.vlm),
        "clip": bool(config.clip.model),
        "inception": find_weights(config.inception, local_only=True) is not None,
    }
    return [name for name in config.scorers if not there[name]]


def score_all(
    folders: Mapping[str, Path], rows: Sequence[Row], scorers: PromptScorers, of_base: Mapping[str, str]
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Score the images of every model.

    Args:
        folders: Label -> folder of the images, which keeps what a network says about them.
        rows: What was drawn.
        scorers: Loaded.
        of_base: Label of a model -> label of its base.

    Returns:
        The scores of every model, its base first, and the features that a report is made from.
    """
    scored: dict[str, Scored] = {}
    found: dict[str, Scores] = {}
    kept: dict[str, Any] = {}
    for label in sorted(folders, key=lambda label: label in of_base):  # bases first
        base = of_base.get(label)
        each = scored[label] = score(folders[label], rows, scorers.images, tau=0.0, base=scored[base] if base else None)
        told = {
            "detections": _detections(folders[label], each, scorers.nudity),
            "shown": _shown(folders[label], each, rows, scorers.vlm),
        }
        own = [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]
        table = Table([row | one for row, one in zip(each.table.rows, own, strict=True)])
        found[label] = Scores(base, table, each.inception, _unrelated(each, rows))
        for name, features in (("clip", each.clip), ("inception", each.inception)):
            if features is not None:
                kept[f"{name}/{label}"] = features
    return found, kept


def _detections(folder: Path, scored: Scored, detector: Nudity | None) -> list[Any]:
    if detector is None:
        return [None] * len(scored.images)
    keys = image_keys(scored.table["image_sha256"].tolist())

    def ask(chunk: slice) -> list[list[Detection]]:
        return detector(scored.images[chunk])

    return score_once(folder, "nudity", detector.card, keys, ask, batch_size=nudity.Config.batch_size)


def _shown(folder: Path, scored: Scored, rows: Sequence[Row], judge: Vlm | VlmConfig | None) -> list[Any]:
    """The answers of the vision-language model to each image's own questions, each kept for itself."""
    if judge is None or isinstance(judge, VlmConfig):
        return [None] * len(rows)
    asked = [(place, what) for place, row in enumerate(rows) for what in asked_of(row)]
    hashes = [scored.table.rows[place]["image_sha256"] for place, _ in asked]

    def ask(chunk: slice) -> list[bool]:
        images = [scored.images[place] for place, _ in asked[chunk]]
        return [answer for (answer,) in judge(images, [[what] for _, what in asked[chunk]])]

    keys, identity = image_keys(hashes, [what for _, what in asked]), judge.card | {"question": vlm.QUESTION}
    answers = score_once(folder, "vlm", identity, keys, ask, batch_size=VlmConfig.batch_size)
    found: list[Any] = [[] for _ in rows]
    for (place, _), answer in zip(asked, answers, strict=True):
        found[place].append(answer)
    return found


def _unrelated(scored: Scored, rows: Sequence[Row]) -> float | None:
    """The mean CLIP score of the images with the prompts of other rows; None without a CLIP model or other prompts."""
    if scored.clip is None or scored.texts is None or len({row.prompt for row in rows}) < 2:
        return None
    return float((scored.clip * np.roll(scored.texts, -(len(rows) // 2), axis=0)).sum(1).mean())


def real_features(
    scorers: PromptScorers, config: PromptSuiteConfig, drawn: Path, rows: Sequence[Row], kept: Path
) -> np.ndarray | None:
    """Inception features (N, 2048) of the real images, cropped at the centre to the shape and size of a drawn one."""
    network = scorers.images.inception
    if network is None or not config.real_images:
        return None
    with Image.open(drawn / f"images/{rows[0].key}.png") as image:
        size = image.size
    paths = _photographs(Path(config.real_images))
    cropped, shape = _Cropped(paths, size), f"{size[0]} x {size[1]}"
    keys = image_keys([manifest.sha256(path) for path in paths], [shape] * len(paths))

    def ask(chunk: slice) -> np.ndarray:
        return network(cropped[chunk])

    folder = kept / "real"  # the user's own folder is left as it is
    return np.stack(score_once(folder, "inception", network.identity, keys, ask, batch_size=network.batch_size))


class _Cropped(Pictures):
    """Images of any shape, read whenever they are asked for, cropped at the centre and resized to one size."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        super().__init__(paths)
        self.size = size

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image.Image]: ...
    def __getitem__(self, place: int | slice) -> Image.Image | list[Image.Image]:
        found = super().__getitem__(place)
        if isinstance(found, list):
            return [ImageOps.fit(image, self.size, Image.Resampling.BICUBIC) for image in found]
        return ImageOps.fit(found, self.size, Image.Resampling.BICUBIC)


def _photographs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of real images {folder} does not exist; write its path, or leave it empty."
        )
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOGRAPHS)
    if not found:
        raise ValueError(f"The folder of real images {folder} holds none ({', '.join(PHOTOGRAPHS)}); name another one.")
    return found
