"""The image wall of a suite of prompt files: some rows of each file, what the judge says of every image, thumbnails.

Where images may be explicit, a thumbnail is a few pixels wide, so that the page can be passed on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.formulas.nudity import LABEL_SETS, highest_score
from eval.report.wall import STAGES, thumbnails
from eval.score.table import Table


FIRST = 6  # prompts of each file that are shown whatever becomes of them
MOST = 48  # rows of a page, unless the first prompts of the files are more
PIXELATED = ((8, 80),)  # side in pixels and WebP quality: nothing can be made out
BADGES = ("shown", "absent", "broken", "unjudged")


def build_wall(content: dict[str, Any], tables: Mapping[str, Table], out: Path) -> dict[str, Any]:
    """Collect rows, badges and thumbnails, in the form of ``eval.report.wall.build_wall``.

    Args:
        content: of ``report.json``.
        tables: Label -> scores of the model.
        out: The folder of the report, from which its image folders are named.

    Returns:
        The wall; a mark has the score of the image behind what the judge sees.

    Raises:
        FileNotFoundError: an image is missing.
    """
    bases = {label: content["models"][label]["base"] if label in content["models"] else None for label in tables}
    verdicts = {label: [_verdict(row, content["suite"]) for row in table.rows] for label, table in tables.items()}
    places = choose_rows(next(iter(tables.values())), verdicts, bases)
    files: dict[str, Path] = {}  # SHA-256 -> where it lies
    numbers: dict[str, int] = {}
    seen: dict[str, int] = {}
    marks: dict[str, list[list[Any]]] = {label: [] for label in tables}
    for label, table in tables.items():
        for place in places:
            row, (badge, told) = table.rows[place], verdicts[label][place]
            path = out / content["folders"][label] / row["image_path"]
            if not path.exists():
                raise FileNotFoundError(f"The image {path} is missing; run `erase eval` again to make it.")
            files.setdefault(row["image_sha256"], path)
            number = numbers.setdefault(row["image_sha256"], len(numbers))
            marks[label].append([number, BADGES.index(badge), seen.setdefault(told, len(seen)), _score(row)])
    first = next(iter(tables.values())).rows
    rows = [["", "", first[place]["seed"], first[place]["family"], first[place]["prompt"]] for place in places]
    stages = PIXELATED if content["is_explicit"] else STAGES
    return {
        "badges": BADGES,
        "seen": list(seen),
        "saw": "",
        "rows": [rows for _ in {base for base in bases.values() if base}],
        "marks": marks,
        "images": thumbnails(list(files.values()), stages),
    }


def choose_rows(
    first: Table, verdicts: Mapping[str, Sequence[tuple[str, str]]], bases: Mapping[str, str | None]
) -> list[int]:
    """The rows to show: of each prompt file the first ones, then those in which a verdict is not the base's.

    Args:
        first: The scores of one model; all have the same rows.
        verdicts: Label -> what is said of each image.
        bases: Label -> label of the base, None for a base.
    """
    chosen: set[int] = set()
    for file in dict.fromkeys(row["family"] for row in first.rows):
        own = [place for place, row in enumerate(first.rows) if row["family"] == file]
        chosen |= {*own[:FIRST]}
    changed = [
        place
        for place in range(len(first))
        if place not in chosen
        and any(base and verdicts[label][place] != verdicts[base][place] for label, base in bases.items())
    ]
    room = max(0, MOST - len(chosen))
    step = max(1.0, len(changed) / room) if room else 1.0
    chosen |= {changed[int(place * step)] for place in range(min(room, len(changed)))}  # from all files alike
    return sorted(chosen)


def _verdict(row: dict[str, Any], suite: dict[str, Any]) -> tuple[str, str]:
    """The badge of an image, and in words what is seen in it."""
    if row["broken"]:
        return "broken", row["broken"]
    if row["detections"] is not None:
        is_nude = highest_score([row["detections"]], LABEL_SETS["nudity_6"])[0] >= suite["threshold"]
        return ("shown", "nudity") if is_nude else ("absent", "no nudity")
    if row["shown"]:
        count = sum(row["shown"])
        return ("shown" if count == len(row["shown"]) else "absent"), f"{count} of {len(row['shown'])} asked for"
    return "unjudged", ""


def _score(row: dict[str, Any]) -> str:
    told = []
    if row["detections"]:
        told.append(f"NudeNet {highest_score([row['detections']], LABEL_SETS['nudity_6'])[0]:.2f}")
    if row["clip"] is not None:
        told.append(f"CLIP {row['clip']:.3f}")
    return ", ".join(told)
