"""The numbers of a report as Markdown."""

from collections.abc import Sequence
from typing import Any

from eval.attack.searched import by_protocol
from eval.measure.aggregate import KEPT, KEPT_BESIDE_COMBINATION
from eval.measure.compare import Column, Evaluation
from eval.report.text import change, interval, no_interval, number, rate, words


HEADLINE = ("ua", *KEPT, *KEPT_BESIDE_COMBINATION, "normalised_erasure")


def headline(metrics: dict[str, Any]) -> list[str]:
    """The metrics of a report that come first: those of its kinds of target."""
    return [key for key in HEADLINE if key in metrics]


def markdown(
    content: dict[str, Any], evaluations: Sequence[Evaluation], columns: Sequence[Column], metrics: dict[str, Any]
) -> str:
    """Write a report without images: verdicts, numbers, differences, held-out wordings, gates.

    Args:
        content: ``report.json``.
        evaluations: the evaluated models.
        columns: the models to show.
        metrics: ``eval.measure.compare.metric_table`` of them.
    """
    lines = [f"# {title(evaluations)}", ""]
    for each in evaluations:
        verdict = each.content["verdict"]
        name = f"{each.label}: {verdict['code']}. " if len(evaluations) > 1 else ""
        lines += [name + verdict["sentence"], "", *(f"- {reason}" for reason in verdict["reasons"]), ""]
    lines += [*_metric_lines(columns, metrics), ""]
    lines += [*_difference_lines(content["comparison"], columns, metrics), ""]
    lines += [*_searched_lines(evaluations), *_sequence_lines(sequence_table(content))]
    lines += _seed_lines(seed_table(content, metrics))
    for each in evaluations:
        lines += [*_held_out_lines(each, several=len(evaluations) > 1), ""]
        lines += [f"Gates of {each.label}:" if len(evaluations) > 1 else "Gates:", ""]
        lines += [
            f"- {gate['name']}: {'passed' if gate['passed'] else 'FAILED'}. {gate['sentence']}"
            for gate in each.content["gates"]
        ]
        lines += [""]
    lines += ["Intervals: 95 %, in square brackets; a number between ~~ is withheld by a failed gate."]
    if content["reproduce"]:
        lines += ["", "```", content["reproduce"], "```"]
    return "\n".join(lines) + "\n"


def title(evaluations: Sequence[Evaluation]) -> str:
    """What a report is about, in a line."""
    if len(evaluations) > 1:
        return f"{len(evaluations)} models side by side"
    content = evaluations[0].content
    return f"{', '.join(content['concept']['target'])}: {content['verdict']['code']}"


def _metric_lines(columns: Sequence[Column], metrics: dict[str, Any]) -> list[str]:
    lines = [
        f"| metric | {' | '.join(column.label for column in columns)} | images | prompts |",
        f"|---|{'---|' * (len(columns) + 2)}",
    ]
    last = next(column.id for column in columns if column.role == "erased")
    for key, metric in metrics.items():
        cells = [_cell(key, metric, column.id) for column in columns]
        shown = metric["values"].get(last) or {}
        counts = f"{shown.get('n_images', '')} | {shown.get('n_prompts', '')}"
        lines.append(f"| {metric['title']} | {' | '.join(cells)} | {counts} |")
    return lines


def _cell(key: str, metric: dict[str, Any], column: str) -> str:
    estimate = metric["values"].get(column)
    if estimate and estimate.get("not_run"):
        return f"not run: {estimate['not_run']}"
    text = "n/a"
    if estimate:
        parts = (number(estimate["value"], key), interval(estimate, key), no_interval(estimate))
        text = " ".join(part for part in parts if part)
    return f"~~{text}~~" if column in metric["struck"] else text


def _difference_lines(comparison: dict[str, Any], columns: Sequence[Column], metrics: dict[str, Any]) -> list[str]:
    """Every model against its own base, and the models of one target against one another."""
    label, keys = {column.id: column.label for column in columns}, headline(metrics)
    lines = [
        f"| paired difference | {' | '.join(metrics[key]['title'] for key in keys)} |",
        f"|---|{'---|' * len(keys)}",
    ]
    for pair in comparison["differences"]:
        if pair["paired"]:
            cells = [_gap(pair, key, metrics[key]) for key in keys]
            lines.append(f"| {label[pair['b']]} - {label[pair['a']]} | {' | '.join(cells)} |")
    return lines


def _gap(pair: dict[str, Any], key: str, metric: dict[str, Any]) -> str:
    text = change(pair["metrics"].get(key), key)
    return f"~~{text}~~" if pair["a"] in metric["struck"] or pair["b"] in metric["struck"] else text


def sequence_table(content: dict[str, Any]) -> dict[str, Any] | None:
    """Targets erased one after another as text: a row per step, a cell per target; None where nobody asked for it."""
    found = content.get("sequence")
    if not found or "not_run" in found:
        return found
    rows = []
    for place, label in enumerate(content["evaluations"]):
        cells = [
            {"ua": _share(ua), "rebound": change(back, "ua") if back else ""}
            for ua, back in zip(found["ua"][place], found["rebound"][place], strict=True)
        ]
        rows.append({"label": label, "cells": cells, "retained": _share(found["retained"][place])})
    titles = [", ".join(words(name) for name in request["names"]) for request in found["requests"]]
    return {"titles": titles, "rows": rows}


def _share(estimate: dict[str, Any] | None) -> str:
    return f"{number(estimate['value'], 'ua')} {interval(estimate, 'ua')}" if estimate else ""


def _sequence_lines(table: dict[str, Any] | None) -> list[str]:
    if table is None or "not_run" in table:
        return [f"Erased one after another: not run: {table['not_run']}", ""] if table else []
    lines = [
        f"| UA after (and rebound) | {' | '.join(table['titles'])} | retained |",
        f"|---|{'---|' * (len(table['titles']) + 1)}",
    ]
    for row in table["rows"]:
        cells = [cell["ua"] + (f" ({cell['rebound']})" if cell["rebound"] else "") for cell in row["cells"]]
        lines.append(f"| {row['label']} | {' | '.join(cells)} | {row['retained']} |")
    return [*lines, ""]


def seed_table(content: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Erasures that were trained with several seeds: a column for each, and a row of text per metric.

    Args:
        content: ``report.json``.
        metrics: ``eval.measure.compare.metric_table`` of it.

    Returns:
        ``columns`` with the labels and the seeds of each erasure, none if there is none; ``rows`` with the title of a
        metric and, for each column, its mean and standard deviation, its range and what strikes it, or None.
    """
    if "evaluations" in content:
        found = content["over_seeds"]
    else:
        found = [{"labels": [content["label"]], **content["over_seeds"]}] if content["over_seeds"] else []
    keys = dict.fromkeys(key for each in found for key in each["metrics"])
    return {
        "columns": [
            {"labels": each["labels"], "seeds": ", ".join(str(seed) for seed in each["seeds"])} for each in found
        ],
        "rows": [
            {"title": metrics[key]["title"], "cells": [_spread(each["metrics"].get(key), key) for each in found]}
            for key in keys
        ],
    }


def _spread(spread: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {
        "mean": f"{number(spread['mean'], key)} ± {number(spread['sd'], key)}",
        "range": f"{number(spread['lo'], key)} to {number(spread['hi'], key)}",
        "struck": spread["struck"],
    }


def _searched_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    lines = []
    for table in by_protocol({each.label: each.content["searched"] for each in evaluations}):
        runs = table["runs"]
        heads = [f"{run['label']} {run['note']}".strip() for run in runs]
        lines += [f"Attack {table['title']}", "", f"| prompts with the target | {' | '.join(heads)} |"]
        lines += [f"|---|{'---|' * len(runs)}"]
        for name in table["rows"]:
            cells = [next((rate(arm["total"]) for arm in run["arms"] if arm["name"] == name), "n/a") for run in runs]
            lines.append(_struck_row(name, cells, runs))
        lines.append(
            _struck_row("excess over the stronger null, points", [change(run["excess"]) for run in runs], runs)
        )
        lines.append("")
        lines += [f"- {head}: {run['struck']}" for head, run in zip(heads, runs, strict=True) if run["struck"]]
        lines.append("")
    return lines


def _struck_row(name: str, cells: list[str], runs: list[dict[str, Any]]) -> str:
    shown = [
        f"~~{cell}~~" if run["struck"] and name != "base, no attack" and cell != "n/a" else cell
        for cell, run in zip(cells, runs, strict=True)
    ]
    return f"| {name} | {' | '.join(shown)} |"


def _seed_lines(table: dict[str, Any]) -> list[str]:
    columns = [f"{', '.join(each['labels'])}, training seeds {each['seeds']}" for each in table["columns"]]
    if not columns:
        return []
    lines = [f"| mean ± sd, lowest to highest | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in table["rows"]:
        cells = [f"{cell['mean']}, {cell['range']}" if cell else "n/a" for cell in row["cells"]]
        shown = [
            f"~~{told}~~" if cell and cell["struck"] else told for told, cell in zip(cells, row["cells"], strict=True)
        ]
        lines.append(f"| {row['title']} | {' | '.join(shown)} |")
    return [*lines, ""]


def _held_out_lines(evaluation: Evaluation, *, several: bool) -> list[str]:
    models = [name for name in ("erased", "base", "gold") if name in evaluation.models]
    shown = [evaluation.label if name == "erased" else name for name in models] if several else models
    lines = [
        f"| held-out wording: shows the target | {' | '.join(shown)} | images |",
        f"|---|{'---|' * (len(models) + 1)}",
    ]
    for row in evaluation.content["held_out"]:
        unrun = row["erased"].get("not_run")
        cells = [f"{number(row[name]['value'])} {interval(row[name])}".strip() for name in models]
        if unrun:
            cells = [f"not run: {unrun}"] * len(models)
        elif row["struck"]:
            cells[0] = f"~~{cells[0]}~~"
        name = f"{words(row['family'])} {row['language']}".strip()
        lines.append(f"| {name} | {' | '.join(cells)} | {row['erased']['n_images']} |")
    return lines
