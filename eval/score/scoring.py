"""Run the scorers over a folder of generated images: a table with one row per image, and the features beside it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from PIL import Image
from torch import nn

from eval.draw import manifest
from eval.formulas.drift import cosine_drift, rms_drift
from eval.score.scorers import classifier, clip, inception, lpips, timm_pair, validity
from eval.score.scorers.classifier import Classifier, Judgement
from eval.score.scorers.clip import ClipScore
from eval.score.scorers.inception import Inception
from eval.score.scorers.latents import Latents
from eval.score.scorers.lpips import Lpips
from eval.score.scorers.validity import ValidityScorer
from eval.score.store import Key, image_keys, score_once
from eval.score.table import Table
from eval.score.weights import find_weights
from eval.suite.config import SuiteConfig
from eval.suite.rows import Row


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """The loaded scorers of a suite; without a classifier nothing is judged."""

    classifier: Classifier | None
    validity: ValidityScorer
    clip: ClipScore | None = None
    latents: Latents | None = None
    lpips: Lpips | None = None
    inception: Inception | None = None

    def networks(self) -> list[nn.Module]:
        """What the scorers spend their time in, for ``eval.models.clock``; no module is within another."""
        found: list[nn.Module] = [self.classifier.judge] if self.classifier else []
        found += self.clip.model.children() if self.clip else []  # it is called by parts, and not as a whole
        found += self.latents.vae.children() if self.latents else []
        found += self.lpips.features if self.lpips else []
        return found + ([self.inception.network] if self.inception else [])

    def cards(self) -> dict[str, Any]:
        """What LPIPS and Inception, where they are there, say about their weights."""
        asked = {"lpips": self.lpips, "inception": self.inception}
        return {name: scorer.card for name, scorer in asked.items() if scorer}


class Scored(NamedTuple):
    """One model's rows, and in the same order their features and pixels for comparison with another model."""

    table: Table
    features: np.ndarray | None  # (n, D), of the judge
    images: Sequence[Image.Image]
    hashes: list[str]  # of the pixels
    clip: np.ndarray | None = None  # (n, D), of unit length
    texts: np.ndarray | None = None  # (n, D), the same of the prompts
    inception: np.ndarray | None = None  # (n, 2048)
    latents: np.ndarray | None = None  # (n, 4, H/8, W/8)


class Pictures(Sequence[Image.Image]):
    """Images in RGB that are read whenever they are asked for: a grid of 5,100 at 512 px would take 4 GB."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read nothing yet."""
        self.paths = list(paths)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image.Image]: ...
    def __getitem__(self, place: int | slice) -> Image.Image | list[Image.Image]:
        """Read one image, or those of a slice."""
        if isinstance(place, slice):
            return [_read(path) for path in self.paths[place]]
        return _read(self.paths[place])


def load_scorers(config: SuiteConfig, *, device: str = "cpu") -> Scorers:
    """Load the scorers of a suite; what has no weights is left out. Weights on the hub are fetched.

    Args:
        config: the suite.
        device: where a ``timm_pair``, CLIP and Inception run; every other scorer is small and runs on the CPU.

    Raises:
        FileNotFoundError: weights that do not exist.
        ValueError: weights of something else.
    """
    backbone, weights = find_weights(config.lpips), find_weights(config.inception)
    return Scorers(
        classifier=_load_classifier(config, device) if config.has_judge else None,
        validity=validity.load(validity.Config()),
        clip=clip.load(clip.Config(model=config.clip, device=device)) if config.clip else None,
        lpips=lpips.load(lpips.Config(backbone=backbone)) if backbone else None,
        inception=inception.load(inception.Config(weights=weights, device=device)) if weights else None,
    )


def _load_classifier(config: SuiteConfig, device: str) -> Classifier:
    if config.judge == "canvas":
        return classifier.load(classifier.Config())
    world, files = config.load_world(), config.timm_pair
    pair = timm_pair.load(files, world, compat=config.compat, device=device)
    return classifier.load(
        classifier.Config(
            judge=pair,
            styles=world.labels("style"),
            objects=world.labels("object"),
            prepare=pair.prepare,
            one_object=True,
            batch_size=files.batch_size,
        )
    )


def score(folder: Path, rows: Sequence[Row], scorers: Scorers, *, tau: float, base: Scored | None = None) -> Scored:
    """Score the images of ``rows``; ``folder`` keeps what a network says, so that it is asked once.

    Args:
        folder: what ``eval.draw.generate.generate`` filled.
        rows: which images to score, in the order of the table.
        scorers: the loaded scorers.
        tau: an image in which a judge is below this confidence on both axes counts as showing nothing.
        base: the same rows of the base model, to measure how far each image moved.

    Raises:
        FileNotFoundError: an image is missing; it names it.
        ValueError: an image is not the one that the manifest describes, or is not paired with the base's.
    """
    records = manifest.read(folder)
    images = Pictures([_check(folder, row, records.get(row.key)) for row in rows])
    kept = _Kept(folder, images, [records[row.key]["image_sha256"] for row in rows])
    judged = kept.judgement(scorers.classifier) if scorers.classifier else None
    sound = scorers.validity(images)
    seen = kept.features("clip", scorers.clip, scorers.clip.features) if scorers.clip else None
    texts = kept.texts(scorers.clip, [row.prompt for row in rows]) if scorers.clip else None
    aligned = None if seen is None or texts is None else (seen * texts).sum(1)
    encoded = scorers.latents(images) if scorers.latents else None  # larger than an image, and made in no time
    drifts = _drifts(kept, seen, encoded, scorers, base)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    shared = Counter(dict.fromkeys((code, row.prompt, row.seed) for code, row in zip(hashes, rows, strict=True)))
    copies = Counter(code for code, _, _ in shared)
    table = []
    for index, row in enumerate(rows):
        broken = sound.broken[index] or ("duplicate" if copies[hashes[index]] > 1 else "")
        if not broken and judged and max(judged.style_scores[index].max(), judged.object_scores[index].max()) < tau:
            broken = "nothing recognised"
        record = records[row.key]
        if base is not None and base.table.rows[index]["latent_hash"] != record["latent_hash"]:
            raise ValueError(f"The image of {row.key} starts from other latents than the base's; generate both again.")
        table.append(
            _row(row, record)
            | {
                **_seen(judged, index),
                "clip": None if aligned is None else round(float(aligned[index]), 6),
                "broken": broken,
                "spread": round(sound.spread[index], 3),
                "saturated": round(sound.saturated[index], 4),
                "entropy": round(sound.entropy[index], 4),
                **{name: None if values is None else round(float(values[index]), 6) for name, values in drifts.items()},
                "same_as_base": None if base is None else hashes[index] == base.hashes[index],
                "feature_ref": index,
            }
        )
    pooled = kept.features("inception", scorers.inception, scorers.inception) if scorers.inception else None
    return Scored(Table(table), judged.features if judged else None, images, hashes, seen, texts, pooled, encoded)


class _Kept:
    """What the scorers with a network say about the images of a folder, as far as it is not known, and kept there."""

    def __init__(self, folder: Path, images: "Pictures", hashes: Sequence[str]) -> None:
        self.folder, self.images, self.hashes = folder, images, hashes

    def judgement(self, judge: Classifier) -> Judgement:
        def ask(chunk: slice) -> list[dict[str, Any]]:
            told = judge(self.images[chunk])
            return [dict(zip(told._fields, values, strict=True)) for values in zip(*told, strict=True)]

        size, keys = judge.config.batch_size, image_keys(self.hashes)
        known = score_once(self.folder, "judge", judge.identity, keys, ask, batch_size=size)
        return Judgement(*(np.array([each[name] for each in known]) for name in Judgement._fields))

    def features(
        self, name: str, scorer: ClipScore | Inception, see: Callable[[Sequence[Image.Image]], np.ndarray]
    ) -> np.ndarray:
        def ask(chunk: slice) -> np.ndarray:
            return see(self.images[chunk])

        keys, size = image_keys(self.hashes), scorer.batch_size
        return np.stack(score_once(self.folder, name, scorer.identity, keys, ask, batch_size=size))

    def texts(self, scorer: ClipScore, prompts: Sequence[str]) -> np.ndarray:
        """The CLIP features of each prompt, (n, D)."""
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}

        def ask(chunk: slice) -> np.ndarray:
            return scorer.texts(distinct[chunk])

        keys, size = [Key("", prompt) for prompt in distinct], scorer.batch_size
        known = score_once(self.folder, "clip_texts", scorer.identity, keys, ask, batch_size=size)
        return np.stack(known)[[place[prompt] for prompt in prompts]]

    def distances(self, scorer: Lpips, base: Scored) -> np.ndarray:
        def ask(chunk: slice) -> list[float]:
            return scorer(self.images[chunk], base.images[chunk]).tolist()

        keys, size = image_keys(self.hashes, base.table["image_sha256"].tolist()), scorer.batch_size
        return np.array(score_once(self.folder, "lpips", scorer.identity, keys, ask, batch_size=size))


def _seen(judged: Judgement | None, index: int) -> dict[str, Any]:
    """What the judge says about an image, or None in the place of each answer."""
    if judged is None:
        return dict.fromkeys(("judge_style", "judge_object", "style_scores", "object_scores"))
    return {
        "judge_style": str(judged.style[index]),
        "judge_object": str(judged.object[index]),
        "style_scores": [round(float(value), 5) for value in judged.style_scores[index]],
        "object_scores": [round(float(value), 5) for value in judged.object_scores[index]],
    }


def _check(folder: Path, row: Row, record: dict[str, Any] | None) -> Path:
    """The file of a row, which must be the one that was drawn."""
    path = folder / (record["image_path"] if record else f"images/{row.key}.png")
    if record is None or not path.exists():
        raise FileNotFoundError(
            f"The image {path} of the prompt {row.prompt!r} is missing; generate it before scoring."
        )
    if manifest.sha256(path) != record["image_sha256"] or record["prompt_text"] != row.prompt:
        raise ValueError(
            f"The image {path} is not the one that the manifest describes; delete it and generate it again."
        )
    return path


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _row(row: Row, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": row.key,
        "prompt_id": row.prompt_id,
        "prompt": row.prompt,
        "seed": row.seed,
        "role": row.role,
        "family": row.family,
        "style": row.style,
        "object": row.object,
        "language": row.language,
        "attack": row.attack,
        "columns": row.columns or None,  # Parquet has no empty record
        "latent_hash": record["latent_hash"],
        "image_path": record["image_path"],
        "image_sha256": record["image_sha256"],
        "flagged": record.get("flagged", False),  # by a safety checker or a block list, which blank it
        "wall_s": record["wall_s"],
        "unet_forwards": record.get("unet_forwards"),  # images of an earlier version were not counted
    }


def _drifts(
    kept: _Kept,
    seen: np.ndarray | None,
    encoded: np.ndarray | None,
    scorers: Scorers,
    base: Scored | None,
) -> dict[str, np.ndarray | None]:
    """How far each image moved from the base's, in every measure there are weights for."""
    drifts: dict[str, np.ndarray | None] = dict.fromkeys(("drift", "drift_latent", "drift_clip", "drift_lpips"))
    if base is None:
        return drifts
    pairs = zip(kept.images, base.images, strict=True)  # one by one: all pixels in float64 would be gigabytes
    gaps = [rms_drift(*(np.asarray(image, np.float64)[None] for image in pair)) / 255 for pair in pairs]
    drifts["drift"] = np.concatenate(gaps)
    if encoded is not None and base.latents is not None:
        drifts["drift_latent"] = rms_drift(encoded, base.latents)
    if seen is not None and base.clip is not None:
        drifts["drift_clip"] = cosine_drift(seen, base.clip)
    if scorers.lpips is not None:
        drifts["drift_lpips"] = kept.distances(scorers.lpips, base)
    return drifts
