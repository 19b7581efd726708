"""Render ``report.json`` as one self-contained HTML page and as Markdown; no image is generated or judged here."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval.attack.searched import by_protocol
from eval.files import write_text
from eval.measure import compare
from eval.measure.aggregate import KEPT, KEPT_BESIDE_COMBINATION
from eval.measure.breakdown import AXES
from eval.measure.compare import Column, Evaluation
from eval.report import charts, text
from eval.report.markdown import headline, markdown, seed_table, sequence_table, title
from eval.report.wall import build_wall


TEMPLATES = Path(__file__).parent / "templates"
TONES = {  # verdict -> colour of its banner
    "erased": "good",
    "erased with damage": "fair",
    "erased by name only": "fair",
    "partly erased": "fair",
    "inference-only": "fair",
    "not measurable": "unknown",
    "not judged": "unknown",
    "not erased": "bad",
    "destroyed": "bad",
    "blocked": "bad",
}
TINTS = 8  # colours for evaluated models; a ninth one starts again


def render(out: Path) -> Path:
    """Write ``report.html`` and ``report.md`` from ``report.json`` and what it names.

    Args:
        out: the folder that ``eval.evaluate.evaluate`` or ``eval.evaluate.combine`` filled.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: the folder, or one that its report names, holds no evaluation.
    """
    source = out / "report.json"
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; run `erase eval` with this output folder first.")
    content = json.loads(source.read_text(encoding="utf-8"))
    folders = content.get("evaluations") or {content["label"]: "."}
    evaluations = [compare.read_evaluation(label, out / folder) for label, folder in folders.items()]
    columns = compare.find_columns(evaluations)
    metrics = compare.metric_table(evaluations, columns)
    html = out / "report.html"
    write_text(html, _page(content, evaluations, columns, metrics))
    write_text(out / "report.md", markdown(content, evaluations, columns, metrics))
    return html


def template_environment() -> jinja2.Environment:
    """The templates of reports, with the numbers as people read them for filters; a missing name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False, "separators": (",", ":")}
    filters: dict[str, Callable[..., Any]] = {
        name: getattr(text, name)
        for name in (
            "number",
            "interval",
            "no_interval",
            "basis",
            "change",
            "rate",
            "signed",
            "words",
            "size",
            "duration",
        )
    }
    environment.filters |= filters
    return environment


def script(name: str) -> Markup:
    """The script of a page: the image wall, which all pages have, and what is its own."""
    parts = [(TEMPLATES / each).read_text(encoding="utf-8") for each in ("wall.js", name)]
    return Markup('"use strict";\n(() => {\n' + "\n".join(parts) + "})();")


def _page(
    content: dict[str, Any], evaluations: Sequence[Evaluation], columns: Sequence[Column], metrics: dict[str, Any]
) -> str:
    environment = template_environment()
    tints = {column.id: _tint(column) for column in columns}
    struck = {(column, key) for key, metric in metrics.items() for column in metric["struck"]}
    draw = _Charts(evaluations, columns, metrics, tints, struck, content["comparison"])
    return environment.get_template("report.html.j2").render(
        report=content,
        title=title(evaluations),
        evaluations=evaluations,
        columns=columns,
        groups=[[column for column in columns if column.group == group] for group in range(columns[-1].group + 1)],
        metrics=metrics,
        headline=headline(metrics),
        tones=TONES,
        tints=tints,
        draw=draw,
        heat=[
            _heat(evaluations[column.evaluation], column)
            for column in columns
            if column.role != "base" and evaluations[column.evaluation].content["cells"]
        ],
        withheld=_withheld(columns, metrics),
        searched=by_protocol({each.label: each.content["searched"] for each in evaluations}),
        sequence=sequence_table(content),
        over_seeds=seed_table(content, metrics),
        layer_kinds=[*charts.KINDS.values(), "other layers"],
        data=_data(content, evaluations, columns, metrics, tints),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=script("report.js"),
    )


class _Charts:
    """What the templates draw."""

    def __init__(
        self,
        evaluations: Sequence[Evaluation],
        columns: Sequence[Column],
        metrics: dict[str, Any],
        tints: dict[str, str],
        struck: set[tuple[str, str]],
        comparison: dict[str, Any],
    ) -> None:
        self.evaluations, self.columns, self.metrics = evaluations, columns, metrics
        self.tints, self.struck, self.comparison = tints, struck, comparison

    def metric(self, key: str) -> Markup:
        """A share of every model with its interval, 0 to 1."""
        marks = [self._mark(column, key) for column in self.columns]
        return charts.forest([mark for mark in marks if mark], low=0, high=1, ticks=(0, 0.5, 1))

    def effect(self, key: str) -> Markup:
        """The paired change of every model against its own base, -1 to 1."""
        marks = [
            self._gap_mark(column, pair["metrics"][key], key)
            for column in self.columns
            for pair in self.comparison["differences"]
            if pair["b"] == column.id and self._is_own_base(pair["a"], column) and key in pair["metrics"]
        ]
        return charts.forest(marks, low=-1, high=1, ticks=(-1, 0, 1))

    def effects(self) -> list[str]:
        """The shares whose change against base is drawn: those that somebody wants to be high or low."""
        known = {key for pair in self.comparison["differences"] if pair["paired"] for key in pair["metrics"]}
        return [
            key
            for key, metric in self.metrics.items()
            if key in known and text.unit(key) == "share" and metric["direction"] != "none"
        ]

    def concepts(self) -> dict[str, Any]:
        """The paired change of the accuracy of every retained concept, one chart per concept, the worst first."""
        by_concept: dict[tuple[str, str], list[charts.Mark]] = {}
        place = {column.id: column for column in self.columns}
        for row in self.comparison["concepts"]:
            mark = self._gap_mark(place[row["column"]], row, "")
            by_concept.setdefault((row["axis"], row["concept"]), []).append(mark)
        rows: list[dict[str, Any]] = [
            {"axis": axis, "concept": concept, "worst": min(mark.value for mark in marks), "marks": marks}
            for (axis, concept), marks in by_concept.items()
        ]
        rows.sort(key=lambda row: row["worst"])
        low = min([-0.2, *(mark.lo for row in rows for mark in row["marks"])])
        high = max([0.2, *(mark.hi for row in rows for mark in row["marks"])])
        drawn = [row | {"chart": charts.forest(row["marks"], low=low, high=high)} for row in rows]
        return {"low": low, "high": high, "rows": drawn}

    def plane(self) -> Markup:
        """Erasure against retention."""
        points = []
        for column in self.columns:
            erasure = self._mark(column, "normalised_erasure")
            kept = [mark for key in (*KEPT, *KEPT_BESIDE_COMBINATION) if (mark := self._mark(column, key))]
            if erasure and kept:
                points.append(charts.Point(erasure, min(kept, key=lambda mark: mark.value)))
        return charts.plane(points)

    def layers(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """The bars of every component, on one scale for all models of the page, and the layers that moved most."""
        changes = [
            value
            for each in self.evaluations
            for layers in each.content["layers"].values()
            for value in layers.values()
            if value
        ]
        top = max(changes, default=1.0)
        found: list[dict[str, Any]] = []
        for component, layers in evaluation.content["layers"].items():
            most = sorted(layers.items(), key=lambda item: -(item[1] or 0.0))[:3]
            found.append(
                {
                    "component": component,
                    "chart": charts.layer_bars(layers, top=top),
                    "changed": sum(value != 0 for value in layers.values()),
                    "of": len(layers),
                    "most": [(name, value) for name, value in most if value],
                }
            )
        return found

    def _mark(self, column: Column, key: str) -> charts.Mark | None:
        estimate = self.metrics.get(key, {}).get("values", {}).get(column.id)
        if not estimate or estimate["value"] is None:
            return None
        told = f"{text.number(estimate['value'], key)} {text.interval(estimate, key)}"
        is_struck = (column.id, key) in self.struck
        return charts.estimate_mark(column.label, self.tints[column.id], estimate, told=told, is_struck=is_struck)

    def _gap_mark(self, column: Column, gap: dict[str, Any], key: str) -> charts.Mark:
        is_struck = (column.id, key) in self.struck
        told = text.change(gap, key)
        return charts.estimate_mark(column.label, self.tints[column.id], gap, told=told, is_struck=is_struck)

    def _is_own_base(self, other: str, column: Column) -> bool:
        return any(each.id == other and each.role == "base" and each.group == column.group for each in self.columns)


def _withheld(columns: Sequence[Column], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Why numbers are struck through: one sentence for all that it withholds of a model."""
    found: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        for metric in metrics.values():
            if column.id in metric["struck"]:
                found.setdefault((column.label, metric["struck"][column.id]), []).append(metric["title"])
    return [{"label": label, "sentence": sentence, "titles": titles} for (label, sentence), titles in found.items()]


def _tint(column: Column) -> str:
    return column.role if column.role != "erased" else f"tint{column.evaluation % TINTS}"


def _heat(evaluation: Evaluation, column: Column) -> dict[str, Any]:
    """The change of the accuracy against base in each cell, on both axes."""
    ours, base = evaluation.content["cells"][column.role], evaluation.content["cells"]["base"]
    target = evaluation.target
    maps = []
    for axis in AXES:
        rows = []
        for style, by_object in ours.items():
            cells = [
                {
                    "after": cell[axis],
                    "change": cell[axis] - base[style][obj][axis],
                    "target": target.is_asked(style, obj),
                    "title": f"{text.words(style)} / {text.words(obj)}: {_accuracy(cell, axis)} of {cell['n']} images, "
                    f"base {_accuracy(base[style][obj], axis)}",
                }
                for obj, cell in by_object.items()
            ]
            rows.append({"style": style, "cells": cells})
        maps.append({"axis": axis, "rows": rows})
    return {"column": column, "objects": list(next(iter(ours.values()))), "maps": maps}


def _accuracy(cell: dict[str, Any], axis: str) -> str:
    lo, hi = cell.get(f"{axis}_interval", (None, None))  # a report of an earlier version has none
    return f"{cell[axis]:.0%} {text.interval({'lo': lo, 'hi': hi})}".strip()


def _data(
    content: dict[str, Any],
    evaluations: Sequence[Evaluation],
    columns: Sequence[Column],
    metrics: dict[str, Any],
    tints: dict[str, str],
) -> dict[str, Any]:
    """What the page's script looks things up in."""
    gaps = {
        f"{pair['a']} {pair['b']}": {
            "paired": pair["paired"],
            "metrics": {
                key: [*(round(gap[end], 6) for end in ("value", "lo", "hi")), gap["n_images"]]
                for key, gap in pair["metrics"].items()
            },
        }
        for pair in content["comparison"]["differences"]
    }
    shown = {
        key: {
            "title": metric["title"],
            "definition": metric["definition"],
            "direction": metric["direction"],
            "unit": text.unit(key),
            "struck": list(metric["struck"]),
            "values": {
                column: [text.number(estimate["value"], key), text.interval(estimate, key)]
                for column, estimate in metric["values"].items()
                if estimate and estimate["value"] is not None
            },
        }
        for key, metric in metrics.items()
    }
    return {
        "columns": [column._asdict() | {"tint": tints[column.id]} for column in columns],
        "metrics": shown,
        "differences": gaps,
        "wall": build_wall(evaluations, columns),
    }
