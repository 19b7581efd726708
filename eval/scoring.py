"""Run the scorers over a folder of generated images: a table with one row per image, and the features beside it."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eval import manifest
from eval.metrics.drift import cosine_drift, rms_drift
from eval.rows import Row
from eval.scorers import classifier, clip, features, inception, lpips, validity
from eval.scorers.classifier import Classifier
from eval.scorers.clip import ClipScore
from eval.scorers.features import Features
from eval.scorers.inception import Inception
from eval.scorers.latents import Latents
from eval.scorers.lpips import Lpips
from eval.scorers.validity import ValidityScorer
from eval.table import Table


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """The loaded scorers of a suite."""

    classifier: Classifier
    features: Features
    validity: ValidityScorer
    clip: ClipScore | None = None
    latents: Latents | None = None
    lpips: Lpips | None = None
    inception: Inception | None = None


class Scored(NamedTuple):
    """One model's rows, and in the same order their features and pixels for comparison with another model."""

    table: Table
    features: np.ndarray  # (n, D), of the judge
    images: list[Image.Image]
    clip: np.ndarray | None = None  # (n, D), of unit length
    inception: np.ndarray | None = None  # (n, 2048)
    latents: np.ndarray | None = None  # (n, 4, H/8, W/8)


def load_scorers(judge: str, clip_model: str, *, lpips_backbone: str = "", inception_weights: str = "") -> Scorers:
    """Load the scorers by name or path; an empty name leaves that scorer out.

    Raises:
        FileNotFoundError: weights that do not exist.
        ValueError: an unknown judge, or weights of something else.
    """
    return Scorers(
        classifier=classifier.load(classifier.Config(judge=judge)),
        features=features.load(features.Config(judge=judge)),
        validity=validity.load(validity.Config()),
        clip=clip.load(clip.Config(model=clip_model)) if clip_model else None,
        lpips=lpips.load(lpips.Config(backbone=Path(lpips_backbone))) if lpips_backbone else None,
        inception=inception.load(inception.Config(weights=Path(inception_weights))) if inception_weights else None,
    )


def score(folder: Path, rows: Sequence[Row], scorers: Scorers, *, tau: float, base: Scored | None = None) -> Scored:
    """Score the images of ``rows``.

    Args:
        folder: what ``eval.generate.generate`` filled.
        rows: which images to score, in the order of the table.
        scorers: the loaded scorers.
        tau: an image in which the judge is below this confidence on both axes counts as showing nothing.
        base: the same rows of the base model, to measure how far each image moved.

    Raises:
        FileNotFoundError: an image is missing; it names it.
        ValueError: an image is not the one that the manifest describes, or is not paired with the base's.
    """
    records = manifest.read(folder)
    images = [_open(folder, row, records.get(row.key)) for row in rows]
    judged = scorers.classifier(images)
    sound = scorers.validity(images)
    seen = scorers.clip.features(images) if scorers.clip else None
    aligned = None if scorers.clip is None or seen is None else scorers.clip.align(seen, [row.prompt for row in rows])
    encoded = scorers.latents(images) if scorers.latents else None
    drifts = _drifts(images, seen, encoded, scorers, base)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    shared = Counter(dict.fromkeys((code, row.prompt, row.seed) for code, row in zip(hashes, rows, strict=True)))
    copies = Counter(code for code, _, _ in shared)
    table = []
    for index, row in enumerate(rows):
        style_scores, object_scores = judged.style_scores[index], judged.object_scores[index]
        broken = sound.broken[index] or ("duplicate" if copies[hashes[index]] > 1 else "")
        if not broken and max(style_scores.max(), object_scores.max()) < tau:
            broken = "nothing recognised"
        record = records[row.key]
        if base is not None and base.table.rows[index]["latent_hash"] != record["latent_hash"]:
            raise ValueError(f"The image of {row.key} starts from other latents than the base's; generate both again.")
        table.append(
            _row(row, record)
            | {
                "judge_style": str(judged.style[index]),
                "judge_object": str(judged.object[index]),
                "style_scores": [round(float(value), 5) for value in style_scores],
                "object_scores": [round(float(value), 5) for value in object_scores],
                "clip": None if aligned is None else round(float(aligned[index]), 6),
                "broken": broken,
                "spread": round(sound.spread[index], 3),
                "saturated": round(sound.saturated[index], 4),
                "entropy": round(sound.entropy[index], 4),
                **{name: None if values is None else round(float(values[index]), 6) for name, values in drifts.items()},
                "same_as_base": None if base is None else images[index].tobytes() == base.images[index].tobytes(),
                "feature_ref": index,
            }
        )
    pooled = scorers.inception(images) if scorers.inception else None
    return Scored(Table(table), scorers.features(images), images, seen, pooled, encoded)


def _open(folder: Path, row: Row, record: dict[str, Any] | None) -> Image.Image:
    path = folder / (record["image_path"] if record else f"images/{row.key}.png")
    if record is None or not path.exists():
        raise FileNotFoundError(
            f"The image {path} of the prompt {row.prompt!r} is missing; generate it before scoring."
        )
    if manifest.sha256(path) != record["image_sha256"] or record["prompt_text"] != row.prompt:
        raise ValueError(
            f"The image {path} is not the one that the manifest describes; delete it and generate it again."
        )
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
        "latent_hash": record["latent_hash"],
        "image_path": record["image_path"],
        "image_sha256": record["image_sha256"],
        "wall_s": record["wall_s"],
        "unet_forwards": record.get("unet_forwards"),  # images of an earlier version were not counted
    }


def _drifts(
    images: list[Image.Image],
    seen: np.ndarray | None,
    encoded: np.ndarray | None,
    scorers: Scorers,
    base: Scored | None,
) -> dict[str, np.ndarray | None]:
    """How far each image moved from the base's, in every measure there are weights for."""
    drifts: dict[str, np.ndarray | None] = dict.fromkeys(("drift", "drift_latent", "drift_clip", "drift_lpips"))
    if base is None:
        return drifts
    pairs = zip(images, base.images, strict=True)  # one by one: all pixels in float64 would be gigabytes
    gaps = [rms_drift(*(np.asarray(image, np.float64)[None] for image in pair)) / 255 for pair in pairs]
    drifts["drift"] = np.concatenate(gaps)
    if encoded is not None and base.latents is not None:
        drifts["drift_latent"] = rms_drift(encoded, base.latents)
    if seen is not None and base.clip is not None:
        drifts["drift_clip"] = cosine_drift(seen, base.clip)
    if scorers.lpips is not None:
        drifts["drift_lpips"] = scorers.lpips(images, base.images)
    return drifts
