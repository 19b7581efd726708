"""The numbers of a report as Markdown."""

from collections.abc import Sequence
from typing import Any

from eval.compare import Column, Evaluation
from eval.text import change, interval, number, rate, words


HEADLINE = ("ua", "ira", "cra_excl_target", "normalised_erasure")


def markdown(
    content: dict[str, Any], evaluations: Sequence[Evaluation], columns: Sequence[Column], metrics: dict[str, Any]
) -> str:
    """Write a report without images: verdicts, numbers, differences, held-out wordings, gates.

    Args:
        content: ``report.json``.
        evaluations: the evaluated models.
        columns: the models to show.
        metrics: ``eval.compare.metric_table`` of them.
    """
    lines = [f"# {title(evaluations)}", ""]
    for each in evaluations:
        verdict = each.content["verdict"]
        name = f"{each.label}: {verdict['code']}. " if len(evaluations) > 1 else ""
        lines += [name + verdict["sentence"], "", *(f"- {reason}" for reason in verdict["reasons"]), ""]
    lines += [*_metric_lines(columns, metrics), ""]
    lines += [*_difference_lines(content["comparison"], columns, metrics), ""]
    for each in evaluations:
        lines += [*_held_out_lines(each, several=len(evaluations) > 1), ""]
        lines += [*_searched_lines(each), *_seed_lines(each)]
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
    text = f"{number(estimate['value'], key)} {interval(estimate, key)}".strip() if estimate else "n/a"
    return f"~~{text}~~" if column in metric["struck"] else text


def _difference_lines(comparison: dict[str, Any], columns: Sequence[Column], metrics: dict[str, Any]) -> list[str]:
    """Every model against its own base, and the models of one target against one another."""
    label = {column.id: column.label for column in columns}
    lines = [
        f"| paired difference | {' | '.join(metrics[key]['title'] for key in HEADLINE)} |",
        f"|---|{'---|' * len(HEADLINE)}",
    ]
    for pair in comparison["differences"]:
        if pair["paired"]:
            cells = [_gap(pair, key, metrics[key]) for key in HEADLINE]
            lines.append(f"| {label[pair['b']]} - {label[pair['a']]} | {' | '.join(cells)} |")
    return lines


def _gap(pair: dict[str, Any], key: str, metric: dict[str, Any]) -> str:
    text = change(pair["metrics"].get(key), key)
    return f"~~{text}~~" if pair["a"] in metric["struck"] or pair["b"] in metric["struck"] else text


def _searched_lines(evaluation: Evaluation) -> list[str]:
    lines = []
    for run in evaluation.content["searched"]:
        lines += [f"| {run['attack']} attack, {run['budget']} | prompts with the target |", "|---|---|"]
        cells = {arm: rate(share) for arm, share in run["arms"].items()}
        cells[f"excess over {words(run['excess']['null'])}, points"] = change(run["excess"])
        lines += [f"| {arm} | {f'~~{cell}~~' if run['struck'] else cell} |" for arm, cell in cells.items()]
        lines += ["", run["struck"], ""] if run["struck"] else [""]
    return lines


def _seed_lines(evaluation: Evaluation) -> list[str]:
    found = evaluation.content["over_seeds"]
    if not found:
        return []
    seeds = ", ".join(str(seed) for seed in found["seeds"])
    lines = [f"| over training seeds {seeds} | mean ± sd | lowest to highest |", "|---|---|---|"]
    for key, spread in found["metrics"].items():
        cells = [
            f"{number(spread['mean'], key)} ± {number(spread['sd'], key)}",
            f"{number(spread['lo'], key)} to {number(spread['hi'], key)}",
        ]
        shown = [f"~~{cell}~~" if spread["struck"] else cell for cell in cells]
        lines.append(f"| {evaluation.content['metrics'][key]['title']} | {' | '.join(shown)} |")
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
