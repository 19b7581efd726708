"""The models of one erasure that was trained with several seeds (``erase run --seeds``), taken together."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from eval.files import REPORT
from eval.formulas.spread import spread
from eval.measurements import OverSeeds, SeedSpread
from eval.results import ModelInfo, Results, read_results


_NAME = re.compile(r"(?P<stem>.+-seed)\d+(?P<suffix>.*)", re.DOTALL)


def over_seeds(results: Results, others: Sequence[Results] = ()) -> list[OverSeeds]:
    """Mean and spread of every metric over the models of each erasure that was trained with several seeds.

    Models belong to one erasure if they differ in the seed of the erasure only, and were evaluated with one suite. Of
    two models with one seed the report's own counts.

    Args:
        results: A report.
        others: Further reports; a model that belongs to no erasure of ``results`` is left out.

    Returns:
        One entry for each erasure of the report with two seeds or more, with the labels that the report has for it.
    """
    groups: dict[str, dict[int, tuple[Results, ModelInfo]]] = {}
    labels: dict[str, list[str]] = {}
    for report in (*others, results):  # the report's own models come last, so they count
        for model in report.erased:
            identity = _identity(report, model)
            if identity is not None:
                groups.setdefault(identity, {})[model.card["seed"]] = (report, model)
                labels.setdefault(identity, []).extend([model.label] if report is results else [])
    return [
        OverSeeds(labels=tuple(labels[identity]), seeds=tuple(sorted(models)), metrics=_spread(models))
        for identity, models in groups.items()
        if len(models) > 1 and labels[identity]
    ]


def sibling_results(out: Path) -> list[Results]:
    """The reports beside ``out`` that have its name but for the number of the seed, such as ``vg-seed1.eval``.

    A report of another version is left out: its numbers are not those of this one.
    """
    match = _NAME.fullmatch(out.name)
    if match is None:
        return []
    names = {place.name: _NAME.fullmatch(place.name) for place in sorted(out.absolute().parent.iterdir())}
    alike = [name for name, other in names.items() if other and other.groups() == match.groups() and name != out.name]
    folders = [out.absolute().with_name(name) for name in alike]
    reports = []
    for folder in folders:
        if (folder / REPORT).is_file():
            try:
                reports.append(read_results(folder))
            except ValueError:
                continue
    return reports


def _spread(models: dict[int, tuple[Results, ModelInfo]]) -> dict[str, SeedSpread]:
    """The spread of every metric that has a number for all seeds."""
    metrics = {}
    reports = [models[seed] for seed in sorted(models)]
    for key in reports[-1][0].metrics:
        own = [(report.metrics[key], model.label) for report, model in reports if key in report.metrics]
        estimates = [metric.values.get(label) for metric, label in own]
        values = [each.value for each in estimates if each is not None and each.value is not None]
        if len(values) < len(reports):
            continue
        struck = next((metric.struck[label] for metric, label in own if metric.struck.get(label)), "")
        metrics[key] = SeedSpread(**spread(values)._asdict(), struck=struck)
    return metrics


def _identity(report: Results, model: ModelInfo) -> str | None:
    """What two models share if only the seed of the erasure differs; None for a model that no run made."""
    config = model.card.get("config")
    if config is None or model.card.get("seed") is None:
        return None
    settings = {name: value for name, value in config.items() if name != "seed"}
    return json.dumps([settings, model.card.get("base"), report.suite["hash"]], sort_keys=True)
