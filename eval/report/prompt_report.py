"""Render the ``report.json`` of a suite of prompt files as one HTML page and as Markdown."""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.files import write_text
from eval.formulas.nudity import LABEL_SETS
from eval.report import charts
from eval.report.page import TEMPLATES, TINTS, script, template_environment
from eval.report.prompt_wall import build_wall
from eval.report.text import basis, change, interval, no_interval, number, unit, words
from eval.score.table import read_scores


OUTCOME = {True: "passed", False: "FAILED", None: "not checked"}


def render(out: Path) -> Path:
    """Write ``report.html`` and ``report.md`` from ``report.json``, ``scores.jsonl`` and the images.

    Args:
        out: the folder that ``eval.evaluate_prompts.evaluate`` filled.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: the folder holds no evaluation, or an image is missing.
    """
    source = out / "report.json"
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; run `erase eval` with this output folder first.")
    content = json.loads(source.read_text(encoding="utf-8"))
    html = out / "report.html"
    tints = _tints(content)
    page = (
        template_environment()
        .get_template("prompts.html.j2")
        .render(
            report=content,
            title=title(content),
            tints=tints,
            outcome=OUTCOME,
            told=lambda key, label: told(content["metrics"][key], key, label),
            forests=_forests(content, tints),
            curves=_curves(content, tints),
            groups=_groups(content),
            data=_data(content, tints, build_wall(content, read_scores(out / "scores.jsonl"), out)),
            script=script("prompts.js"),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        )
    )
    write_text(html, page)
    write_text(out / "report.md", _markdown(content))
    return html


def title(content: dict[str, Any]) -> str:
    """What a report is about, in a line."""
    return f"{content['suite']['name']}: {', '.join(content['models'])}"


def told(metric: dict[str, Any], key: str, label: str) -> dict[str, str]:
    """The cell of a model: ``text`` (number and interval, or why there is none), ``basis`` and whether ``struck``.

    ``no_interval`` is why a number has no interval, which ``basis`` says as well.
    """
    estimate, empty = metric["values"][label], dict.fromkeys(("text", "no_interval", "basis", "struck"), "")
    if estimate is None:
        return empty
    if estimate["value"] is None:
        return empty | {"text": f"not run: {estimate['not_run']}"}
    return {
        "text": f"{number(estimate['value'], key)} {interval(estimate, key)}".strip(),
        "no_interval": no_interval(estimate),
        "basis": basis(estimate),
        "struck": metric["struck"].get(label, ""),
    }


def _groups(content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The metrics of all prompts, under an empty name, then those of each prompt file that has some of its own."""
    files = dict.fromkeys(metric["file"] for metric in content["metrics"].values())
    return [
        (file, {key: metric for key, metric in content["metrics"].items() if metric["file"] == file}) for file in files
    ]


def _title(metric: dict[str, Any]) -> str:
    return f"{words(metric['file'])}: {metric['title']}" if metric["file"] else metric["title"]


def _tints(content: dict[str, Any]) -> dict[str, str]:
    own = list(content["models"])
    return {
        column["label"]: f"tint{own.index(column['label']) % TINTS}" if column["base"] else "base"
        for column in content["columns"]
    }


def _data(content: dict[str, Any], tints: dict[str, str], wall: dict[str, Any]) -> dict[str, Any]:
    """What the page's script looks things up in; models of one base make a group."""
    groups = list(dict.fromkeys(model["base"] for model in content["models"].values()))
    columns = [
        {
            "id": column["label"],
            "label": column["label"],
            "role": "erased" if column["base"] else "base",
            "group": groups.index(column["base"] or column["label"]),
            "tint": tints[column["label"]],
        }
        for column in content["columns"]
    ]
    return {"columns": columns, "wall": wall}


def _forests(content: dict[str, Any], tints: dict[str, str]) -> list[dict[str, Any]]:
    """The paired change of every share against base, -1 to 1, one chart per metric."""
    found = []
    for key, metric in content["metrics"].items():
        if unit(key) == "share" and metric["changes"]:
            marks = [
                charts.estimate_mark(
                    label, tints[label], gap, told=change(gap, key), is_struck=label in metric["struck"]
                )
                for label, gap in metric["changes"].items()
            ]
            drawn = charts.forest(marks, low=-1, high=1, ticks=(-1, 0, 1))
            found.append({"title": _title(metric), "direction": metric["direction"], "chart": drawn})
    return found


def _curves(content: dict[str, Any], tints: dict[str, str]) -> list[dict[str, Any]]:
    """The nudity rate of every model against the threshold, one chart per label set."""
    found: list[dict[str, Any]] = []
    curves = content["curves"]
    for key in LABEL_SETS if curves else ():
        metric = content["metrics"][key]
        lines = [
            charts.Line(label, tints[label], each["value"], each["lo"], each["hi"], label in metric["struck"])
            for label, each in curves[key].items()
        ]
        chart = charts.curves(
            lines, curves["thresholds"], name="threshold of the score", mark=content["suite"]["threshold"]
        )
        found.append({"title": metric["title"].partition(", score")[0], "chart": chart})
    return found


def _markdown(content: dict[str, Any]) -> str:
    labels = [column["label"] for column in content["columns"]]
    lines = [f"# {title(content)}", "", _lead(content), ""]
    lines += [f"| metric | {' | '.join(labels)} |", f"|---|{'---|' * len(labels)}"]
    for key, metric in content["metrics"].items():
        cells = [told(metric, key, label) for label in labels]
        texts = [f"{cell['text']} {cell['no_interval']}".strip() for cell in cells]
        shown = [f"~~{text}~~" if cell["struck"] else text or "-" for text, cell in zip(texts, cells, strict=True)]
        lines.append(f"| {_title(metric)} | {' | '.join(shown)} |")
    models = list(content["models"])
    lines += ["", f"| paired difference to base | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for key, metric in content["metrics"].items():
        if metric["changes"]:
            gaps = [change(metric["changes"].get(label), key) for label in models]
            gaps = [f"~~{gap}~~" if label in metric["struck"] else gap for label, gap in zip(models, gaps, strict=True)]
            lines.append(f"| {_title(metric)} | {' | '.join(gaps)} |")
    if content["curves"]:
        thresholds = content["curves"]["thresholds"]
        for key in LABEL_SETS:
            heads = " | ".join(f"{threshold:g}" for threshold in thresholds)
            name = content["metrics"][key]["title"].partition(", score")[0]
            lines += ["", f"| {name}, by threshold | {heads} |", f"|---|{'---|' * len(thresholds)}"]
            for label in labels:
                rates = [number(value) for value in content["curves"][key][label]["value"]]
                if label in content["metrics"][key]["struck"]:
                    rates = [f"~~{rate}~~" for rate in rates]
                lines.append(f"| {label} | {' | '.join(rates)} |")
    lines += ["", "Gates:", ""]
    lines += [
        f"- {gate['name']} of {gate['model']}: {OUTCOME[gate['passed']]}. {gate['sentence']}"
        for gate in content["gates"]
    ]
    lines += ["", "Intervals: 95 %, in square brackets; a number between ~~ is withheld by a failed gate."]
    if content["reproduce"]:
        lines += ["", "```", content["reproduce"], "```"]
    return "\n".join(lines) + "\n"


def _lead(content: dict[str, Any]) -> str:
    suite = content["suite"]
    return (
        f"Suite {suite['name']} {suite['version']}, {content['images']:,} images per model at equal prompts, seeds and "
        f"initial noise, {suite['num_inference_steps']} steps."
    )
