"""Several evaluated models side by side: which columns there are, and every paired difference between two of them.

Everything follows from the ``scores.jsonl`` and ``features.safetensors`` of the evaluations; no model is run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from eval.formulas.accuracy import Outcomes, cell_index
from eval.measure.aggregate import Model, Summary, prompt_index
from eval.measure.difference import Sample, difference
from eval.measure.holistic import Context, Holistic
from eval.score.table import Table, read_scores
from eval.suite.grid import Target
from eval.suite.world import load_world


SCHEMA_VERSION = 3  # of report.json


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluated model: what ``eval.evaluate.evaluate`` left in its folder."""

    label: str
    folder: Path
    content: dict[str, Any]  # report.json
    models: dict[str, Model]  # erased, base and, where there is one, gold

    @property
    def target(self) -> Target:
        """What was erased, in the labels of the suite's world."""
        concept = self.content["concept"]
        return Target(concept["kind"], tuple(concept["canvas_names"]))

    @property
    def summary(self) -> Summary:
        """What turns the scores into estimates."""
        suite = self.content["suite"]
        # a report of an earlier version names no world: it is of the canvas
        world = load_world(suite.get("world", "canvas"), compat=suite.get("compat", False))
        return Summary(models=self.models, target=self.target, resamples=suite["resamples"], world=world)


class Column(NamedTuple):
    """One model of a comparison; base and gold are there once per target."""

    id: str
    label: str
    role: str  # base, gold or erased
    evaluation: int  # whose scores it is read from
    group: int  # models of one target and one base, whose rows are the same


def read_models(out: Path) -> dict[str, Model]:
    """The scores that ``evaluate`` left in ``out``, to recompute numbers without a model.

    Raises:
        FileNotFoundError: there are none.
    """
    tables = read_scores(out / "scores.jsonl")
    features = load_file(out / "features.safetensors")
    return {
        name: Model(
            table=table,
            features=features.get(name),
            clip=features.get(f"clip/{name}"),
            inception=features.get(f"inception/{name}"),
        )
        for name, table in tables.items()
    }


def read_evaluation(label: str, folder: Path) -> Evaluation:
    """Read one evaluated model from its folder.

    Raises:
        FileNotFoundError: the folder holds no evaluation.
        ValueError: it holds one of another version.
    """
    path = folder / "report.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run `erase eval` with this output folder first.")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has the report format {content['schema_version']}, but {SCHEMA_VERSION} is read; run `erase eval` "
            "with this output folder again, which makes no image twice."
        )
    return Evaluation(label=label, folder=folder, content=content, models=read_models(folder))


def compare(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Compare evaluations of one suite.

    Models of one target and one base are compared image by image at equal prompt and seed. Models of different targets
    have different images of the target, so there each model's change against its own base is compared, unpaired.

    Args:
        evaluations: at least one, with distinct labels.

    Returns:
        ``columns`` (the models), ``groups`` (which of them share their rows), ``differences`` (B - A with a 95 %
        interval for every pair and every metric that has one value per image) and ``concepts`` (the paired change of
        the accuracy of every retained concept against base).

    Raises:
        ValueError: the evaluations are of different suites, or images of one target start from different latents.
    """
    _check_suites(evaluations)
    columns = find_columns(evaluations)
    _check_rows(evaluations, columns)
    samples = {column.id: metric_samples(evaluations[column.evaluation], column.role) for column in columns}
    resamples = evaluations[0].content["suite"]["resamples"]
    pairs = [
        {
            "a": a.id,
            "b": b.id,
            "paired": a.group == b.group,
            "metrics": {
                metric: found
                for metric in samples[a.id]
                if metric in samples[b.id]
                and (
                    found := difference(
                        samples[a.id][metric], samples[b.id][metric], paired=a.group == b.group, resamples=resamples
                    )
                )
            },
        }
        for a, b in combinations(columns, 2)
        if not a.role == b.role == "base"
    ]
    return {
        "columns": [column._asdict() for column in columns],
        "groups": _groups(evaluations, columns),
        "differences": pairs,
        "concepts": [row for column in columns for row in _concept_changes(evaluations[column.evaluation], column)],
    }


def find_columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    """The models to show: for every target its base, its gold model, and what was evaluated, in the order given."""
    keys = [(each.target, each.content["models"]["base"]) for each in evaluations]
    groups = list(dict.fromkeys(keys))
    columns = []
    for group, key in enumerate(groups):
        members = [index for index, each in enumerate(keys) if each == key]
        of_target = f" ({', '.join(key[0].names).replace('_', ' ')})" if len(groups) > 1 else ""
        gold = [index for index in members if "gold" in evaluations[index].models]
        for role, sources in (("base", members[:1]), ("gold", gold[:1])):
            columns += [Column(f"{role}{group or ''}", role + of_target, role, index, group) for index in sources]
        columns += [Column(f"model{index}", evaluations[index].label, "erased", index, group) for index in members]
    return columns


def metric_table(evaluations: Sequence[Evaluation], columns: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """Every metric that a report holds: title, direction, definition, per column estimate and what strikes it."""
    table: dict[str, dict[str, Any]] = {}
    for column in columns:
        for name, metric in evaluations[column.evaluation].content["metrics"].items():
            told = {key: metric[key] for key in ("title", "direction", "definition")}
            row = table.setdefault(name, told | {"values": {}, "struck": {}})
            row["values"][column.id] = metric.get(column.role)
            if column.role == "erased" and metric.get("struck"):
                row["struck"][column.id] = metric["struck"]
    return table


def metric_samples(evaluation: Evaluation, role: str) -> dict[str, Sample]:
    """The metrics of one model that have a value per image or per prompt, with the base's beside them."""
    summary, found = evaluation.summary, dict[str, Sample]()
    grid, base = summary.grid(role), summary.grid("base")
    base_columns = summary.columns(base)
    for metric, (table, column) in summary.columns(grid).items():
        if len(table) and table.rows[0][column] is not None:
            own_base, _ = base_columns[metric]
            known = own_base.rows[0][column] is not None
            reference = own_base[column].astype(float) if known else None
            found[metric] = Sample(table[column].astype(float), reference, prompt_index(table))
    for metric, part in (("collapse_retain", summary.retain), ("collapse_target", summary.forget)):
        found[metric] = Sample(_broken(part(grid)), _broken(part(base)), prompt_index(part(grid)))
    if role != "base":
        retain = summary.retain(grid)
        found["unchanged"] = Sample(retain["same_as_base"].astype(float), None, prompt_index(retain))
    judged = _judged_samples(summary, role) if summary.is_judged else {}
    return judged | found | _aspect_samples(evaluation, role)


def _judged_samples(summary: Summary, role: str) -> dict[str, Sample]:
    """Those that rest on the judge."""
    found: dict[str, Sample] = {}
    grid, base = summary.grid(role), summary.grid("base")
    theirs = summary.outcomes(base)
    for metric, outcomes in summary.outcomes(grid).items():
        found[metric] = Sample(outcomes.hit.astype(float), theirs[metric].hit.astype(float), outcomes.cell)
    forget, forget_base = summary.forget(grid), summary.forget(base)
    shown = summary.seen(forget_base).astype(float)
    if shown.any():
        seen = summary.seen(forget).astype(float)
        found["normalised_erasure"] = Sample(seen, shown, prompt_index(forget), is_share_of_base=True)
    pairs, base_pairs = (summary.pairs(name) for name in (role, "base"))
    if len(pairs) and not summary.unknown_pairs():
        visible = [summary.others_visible(table).astype(float) for table in (pairs, base_pairs)]
        found["in_prompt"] = Sample(visible[0], visible[1], prompt_index(pairs))
    spreads = summary.spreads(role)
    if len(spreads):
        found["diversity"] = Sample(spreads, summary.spreads("base"), np.arange(len(spreads)))
    return found


def _aspect_samples(evaluation: Evaluation, role: str) -> dict[str, Sample]:
    """The same for the aspects of HUB that the suite asks for."""
    content, tables = evaluation.content, [evaluation.models[name].table for name in (role, "base")]
    context = Context(content["neighbours"], content["provenance"]["judge"], content["suite"]["clip"])
    holistic = Holistic(evaluation.summary, context)
    found: dict[str, Sample] = {}
    for metric, outcomes_of in holistic.shares().items():
        known = content["metrics"].get(metric, {}).get(role)
        if known and not known.get("not_run"):
            ours, theirs = (outcomes_of(table) for table in tables)
            if isinstance(ours, Outcomes) and isinstance(theirs, Outcomes):
                found[metric] = Sample(ours.hit.astype(float), theirs.hit.astype(float), ours.cell)
    retain = evaluation.summary.retain(evaluation.summary.grid(role))
    for metric in ("drift_latent", "drift_clip", "drift_lpips"):
        if metric in content["metrics"] and retain.rows[0][metric] is not None:
            found[metric] = Sample(retain[metric].astype(float), None, prompt_index(retain))
    return found


def _broken(table: Table) -> np.ndarray:
    return np.array([float(bool(row["broken"])) for row in table.rows])


def _concept_changes(evaluation: Evaluation, column: Column) -> list[dict[str, Any]]:
    """The paired change of the accuracy of every retained concept against base, on both axes, with its interval."""
    summary = evaluation.summary
    if column.role == "base" or not summary.is_judged:
        return []
    ours, theirs = (summary.retain(summary.grid(role)) for role in (column.role, "base"))
    cells = cell_index(ours["style"], ours["object"])
    rows = []
    for axis in ("style", "object"):
        asked = ours[axis]
        hits = [(table[f"judge_{axis}"] == asked).astype(float) for table in (theirs, ours)]
        for concept in dict.fromkeys(asked.tolist()):
            own = asked == concept
            before, after = (Sample(hit[own], hits[0][own], cells[own]) for hit in hits)
            change = difference(before, after, paired=True, resamples=summary.resamples)
            rows.append({"column": column.id, "axis": axis, "concept": concept, **(change or {})})
    return rows


def _check_suites(evaluations: Sequence[Evaluation]) -> None:
    first, *others = evaluations
    for other in others:
        one, two = first.content["suite"], other.content["suite"]
        if one["hash"] == two["hash"]:
            continue
        what = "different suites or seeds"
        differing = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
        if differing == {"hash", "prompt_files"}:
            files = (name for name, hash_ in one["prompt_files"].items() if two["prompt_files"].get(name) != hash_)
            what = f"different contents of the prompt file {', '.join(files)}"
        raise ValueError(
            f"{' and '.join(sorted((first.label, other.label)))} were evaluated with {what}; evaluate all models with "
            "the same one."
        )


def _check_rows(evaluations: Sequence[Evaluation], columns: Sequence[Column]) -> None:
    first: dict[int, tuple[str, list[tuple[str, str]]]] = {}
    for column in columns:
        rows = evaluations[column.evaluation].models[column.role].table.rows
        found = [(row["key"], row["latent_hash"]) for row in rows]
        label, expected = first.setdefault(column.group, (column.label, found))
        if found != expected:
            raise ValueError(
                f"The images of {column.label} and of {label} are not of the same prompts and initial latents; "
                "evaluate both again on one machine."
            )


def _groups(evaluations: Sequence[Evaluation], columns: Sequence[Column]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for column in columns:
        if column.group == len(groups):
            concept = evaluations[column.evaluation].content["concept"]
            base = evaluations[column.evaluation].content["models"]["base"]
            groups.append({key: concept[key] for key in ("target", "kind", "canvas_names")} | {"base_hash": base})
    return groups
