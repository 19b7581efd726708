"""Render ``report.json`` as one self-contained HTML page and as Markdown; nothing is computed from images here."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from eval.table import Table, read_scores


TONES = {  # verdict -> colour of its banner
    "erased": "good",
    "erased with damage": "fair",
    "erased by name only": "fair",
    "partly erased": "fair",
    "inference-only": "fair",
    "not measurable": "unknown",
    "not erased": "bad",
    "destroyed": "bad",
    "blocked": "bad",
}
HEADLINE = ("ua", "ira", "cra_excl_target", "normalised_erasure")
THUMBNAIL = 96  # pixels; larger images are shown smaller, the files beside the report are untouched
MODELS = ("base", "erased", "gold")
COLUMNS = ("erased", "base", "gold")


def render(out: Path) -> Path:
    """Write ``report.html`` and ``report.md`` from ``report.json``, ``scores.jsonl`` and the images.

    Args:
        out: the folder that ``eval.suite.evaluate`` filled.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: the folder holds no report.
    """
    source = out / "report.json"
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; run `erase eval` with this output folder first.")
    content = json.loads(source.read_text(encoding="utf-8"))
    tables = read_scores(out / "scores.jsonl")
    folders = {name: out / folder for name, folder in content["folders"].items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "interval": interval, "words": words, "size": size, "duration": duration}
    page = environment.get_template("report.html.j2").render(
        report=content,
        tone=TONES[content["verdict"]["code"]],
        models=[name for name in COLUMNS if name in tables],
        rows=[name for name in MODELS if name in tables],
        headline=[(key, content["metrics"][key]) for key in HEADLINE],
        blocks=_blocks(content, tables, folders),
        across=_axis_names(content, "object" if content["concept"]["kind"] == "style" else "style"),
        heat=[_heat(content, axis) for axis in ("style", "object")],
    )
    html = out / "report.html"
    _write(html, page)
    _write(out / "report.md", markdown(content))
    return html


def markdown(content: dict[str, Any]) -> str:
    """The numbers of a report as Markdown."""
    models = [name for name in COLUMNS if name in content["models"]]
    concept, verdict = content["concept"], content["verdict"]
    lines = [
        f"# {', '.join(concept['target'])}: {verdict['code']}",
        "",
        verdict["sentence"],
        "",
        *(f"- {reason}" for reason in verdict["reasons"]),
        "",
        f"| metric | {' | '.join(models)} | images | prompts |",
        f"|---|{'---|' * (len(models) + 2)}",
    ]
    for key, metric in content["metrics"].items():
        cells = [_cell(key, metric.get(name)) for name in models]
        if metric.get("struck"):
            cells[0] = f"~~{cells[0]}~~"
        shown = metric.get("erased") or {}
        lines.append(
            f"| {metric['title']} | {' | '.join(cells)} | {shown.get('n_images', '')} | {shown.get('n_prompts', '')} |"
        )
    lines += [
        "",
        f"| held-out wording: shows the target | {' | '.join(models)} | images |",
        f"|---|{'---|' * (len(models) + 1)}",
    ]
    for row in content["held_out"]:
        cells = [_cell("ua", row[name]) for name in models]
        name = f"{words(row['family'])} {row['language']}".strip()
        lines.append(f"| {name} | {' | '.join(cells)} | {row['erased']['n_images']} |")
    lines += ["", "Gates:", ""]
    lines += [
        f"- {gate['name']}: {'passed' if gate['passed'] else 'FAILED'}. {gate['sentence']}" for gate in content["gates"]
    ]
    lines += ["", "Intervals: 95 %, in square brackets; a number between ~~ is withheld by a failed gate."]
    if content["reproduce"]:
        lines += ["", "```", content["reproduce"], "```"]
    return "\n".join(lines) + "\n"


def number(value: float | None, key: str = "") -> str:
    """A value as people read it: shares in per cent, distances in three digits.

    >>> number(0.9417, "ira"), number(0.312, "clip_retain"), number(None)
    ('94.2 %', '0.312', 'n/a')
    """
    if value is None:
        return "n/a"
    if key in ("clip_retain", "clip_target", "drift", "drift_latent", "drift_clip", "drift_lpips"):
        return f"{value:.3f}"
    if key in ("diversity", "fd_canvas", "kid_canvas", "kid_gold", "cmmd", "fid", "kid_inception", "seconds_per_image"):
        return f"{value:.3g}"
    return f"{100 * value:.1f} %"


def interval(estimate: dict[str, Any] | None, key: str = "") -> str:
    """The interval of an estimate, or nothing.

    >>> interval({"lo": 0.5, "hi": 0.75}, "ua")
    '[50.0, 75.0]'
    """
    if not estimate or estimate.get("lo") is None:
        return ""
    return f"[{number(estimate['lo'], key)}, {number(estimate['hi'], key)}]".replace(" %", "")


def words(name: str) -> str:
    """A name with spaces.

    >>> words("Van_Gogh")
    'Van Gogh'
    """
    return name.replace("_", " ")


def size(count: float | None) -> str:
    """Bytes in a readable unit.

    >>> size(81_500_000)
    '81.5 MB'
    """
    if count is None:
        return "n/a"
    unit, divisor = ("GB", 1e9) if count >= 1e9 else ("MB", 1e6) if count >= 1e6 else ("kB", 1e3)
    return f"{count / divisor:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A time in a readable unit.

    >>> duration(0.0421), duration(75)
    ('42 ms', '1 min 15 s')
    """
    if seconds is None:
        return "n/a"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _cell(key: str, estimate: dict[str, Any] | None) -> str:
    if estimate and estimate.get("not_run"):
        return f"not run: {estimate['not_run']}"
    return f"{number(estimate['value'], key)} {interval(estimate, key)}".strip() if estimate else "n/a"


def _axis_names(content: dict[str, Any], axis: str) -> list[str]:
    by_style = content["cells"]["erased"]
    return list(by_style) if axis == "style" else list(next(iter(by_style.values())))


def _blocks(content: dict[str, Any], tables: dict[str, Table], folders: dict[str, Path]) -> list[dict[str, Any]]:
    """A block of images per concept of the target's kind, the target first: a row per model, the other axis across."""
    kind, targets = content["concept"]["kind"], content["concept"]["canvas_names"]
    across = "object" if kind == "style" else "style"
    seed = content["coverage"]["seeds"][0]
    found = {
        name: {
            (row[kind], row[across]): row for row in table.rows if row["family"] == "template" and row["seed"] == seed
        }
        for name, table in tables.items()
    }
    names = _axis_names(content, kind)
    return [
        {
            "concept": concept,
            "target": concept in targets,
            "models": [
                {
                    "name": model,
                    "images": [
                        _thumbnail(found[model][concept, other], folders[model], kind)
                        for other in _axis_names(content, across)
                    ],
                }
                for model in MODELS
                if model in tables
            ],
        }
        for concept in sorted(names, key=lambda name: (name not in targets, names.index(name)))
    ]


def _thumbnail(row: dict[str, Any], folder: Path, kind: str) -> dict[str, Any]:
    with Image.open(folder / row["image_path"]) as file:
        image = file.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    seen = f"{words(row['judge_style'])} / {words(row['judge_object'])}"
    told = f"{row['prompt']} · seed {row['seed']} · the judge sees {seen}"
    return {
        "data": base64.b64encode(buffer.getvalue()).decode(),
        "title": told + (f" · {row['broken']}" if row["broken"] else ""),
        "shows": row[f"judge_{kind}"] == row[kind],
        "broken": row["broken"],
    }


def _heat(content: dict[str, Any], axis: str) -> dict[str, Any]:
    """Accuracy of the erased model in each cell on one axis, and its difference from base."""
    erased, base = content["cells"]["erased"], content["cells"]["base"]
    kind, targets = content["concept"]["kind"], content["concept"]["canvas_names"]
    rows = []
    for style, by_object in erased.items():
        cells = [
            {
                "value": cell[axis],
                "base": base[style][obj][axis],
                "n": cell["n"],
                "target": (style if kind == "style" else obj) in targets,
                "title": f"{words(style)} / {words(obj)}: {cell[axis]:.0%} of {cell['n']}, "
                f"base {base[style][obj][axis]:.0%}",
            }
            for obj, cell in by_object.items()
        ]
        rows.append({"style": style, "cells": cells})
    return {"axis": axis, "objects": _axis_names(content, "object"), "rows": rows}


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
