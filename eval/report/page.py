"""Render ``report.json`` as one self-contained HTML page and as Markdown; nothing is drawn or judged here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.files import HTML, MARKDOWN, write_text
from eval.report.outline import tints, title
from eval.report.sections import find_sections
from eval.report.templating import TEMPLATES, template_environment
from eval.report.text import interval, number
from eval.report.thumbnails import wall_thumbnails
from eval.results import Results, Wall, read_results


SCRIPTS = ("page.js", "numbers.js", "wall.js")  # each of the last two does nothing where its section is absent
WALL_ROW = ("style", "object", "seed", "part", "prompt")


def render(folder: Path) -> Path:
    """Write ``report.html`` and ``report.md`` beside the ``report.json`` of an evaluation.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: The folder holds no evaluation, or an image is missing.
        ValueError: The report is damaged, or of another version.
    """
    results = read_results(folder)
    sections = list(find_sections(results))
    scripts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS]
    page = (
        template_environment()
        .get_template("page.html.j2")
        .render(
            title=title(results),
            sections={section.__name__.rpartition(".")[2]: section.html(results) for section in sections},
            data=_data(results, wall_thumbnails(results.wall, folder)),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup("\n".join(scripts)),
        )
    )
    write_text(folder / HTML, page)
    parts = [section.markdown(results) for section in sections]
    write_text(folder / MARKDOWN, "\n\n".join(filter(None, parts)) + "\n")
    return folder / HTML


def _data(results: Results, images: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script looks things up in."""
    colours = tints(results)
    return {
        "models": [
            {"label": model.label, "role": model.role, "group": model.group, "tint": colours[model.label]}
            for model in results.models
        ],
        "metrics": {
            key: {
                "title": metric.title,
                "file": metric.file,
                "definition": metric.definition,
                "direction": metric.direction,
                "unit": metric.unit,
                "struck": list(metric.struck),
                "values": {
                    label: [number(estimate.value, metric.unit), interval(estimate, metric.unit)]
                    for label, estimate in metric.values.items()
                    if estimate and estimate.value is not None
                },
            }
            for key, metric in results.metrics.items()
        },
        "differences": [
            {
                "a": pair.a,
                "b": pair.b,
                "paired": pair.paired,
                "metrics": {
                    key: [*(round(end, 6) for end in (gap.value, gap.lo, gap.hi)), gap.n_images]
                    for key, gap in pair.metrics.items()
                },
            }
            for pair in results.differences
        ],
        "wall": _wall(results.wall, images),
    }


def _wall(wall: Wall, images: Mapping[str, str]) -> dict[str, object]:
    """Rows of each group, and the marks of each model as places in what all of them share."""
    places = {digest: place for place, digest in enumerate(images)}
    seen: dict[str, int] = {}
    rows: dict[int, list[list[object]]] = {}
    for row in wall.rows:
        rows.setdefault(row.group, []).append([getattr(row, name) for name in WALL_ROW])
    marks = {
        label: [
            [places[each.sha256], wall.badges.index(each.badge), seen.setdefault(each.seen, len(seen)), each.score]
            for each in own
        ]
        for label, own in wall.marks.items()
    }
    shared = {"badges": wall.badges, "saw": wall.saw, "seen": list(seen), "images": list(images.values())}
    return shared | {"rows": rows, "marks": marks}
