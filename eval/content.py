"""The content of ``report.json`` of a grid suite, from scores alone; nothing is generated or judged here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from eval.attack.searched import describe_attack
from eval.formulas.accuracy import check_complete
from eval.gate import verdict
from eval.measure import breakdown, holistic
from eval.measure.aggregate import ERASURE, Model, Summary
from eval.measure.compare import SCHEMA_VERSION
from eval.models import subject
from eval.models.fingerprint import Fingerprint, footprint
from eval.provenance import environment
from eval.score.table import Table
from eval.score.weights import mark_unpublished
from eval.suite.aspects import ASPECTS, OF_WEIGHTS
from eval.suite.config import SuiteConfig
from eval.suite.grid import Target


class Made(NamedTuple):
    """What is known of the models once their images are made."""

    marks: dict[str, Fingerprint]
    layers: dict[str, dict[str, float | None]]  # component -> layer -> relative change of its weights


def build_report(
    config: SuiteConfig,
    tested: subject.Subject,
    target: Target,
    models: dict[str, Model],
    made: Made,
    *,
    described: dict[str, Any],
    judge_card: dict[str, Any],
    cards: Mapping[str, dict[str, Any]] | None = None,
    neighbours: Sequence[str] = (),
    searched: Mapping[Path, dict[str, Any]] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """The content of ``report.json`` from the scores of the models; nothing is generated or judged here.

    Args:
        config: the suite.
        tested: what was evaluated.
        target: what was erased, in the labels of the suite's world.
        models: the scores by role: erased, base and perhaps gold.
        made: what is known of the models.
        described: ``describe_suite`` of the suite when its prompt files were read, which may have changed since.
        judge_card: what the judge says about itself.
        cards: the same of the scorers in ``eval.suite.aspects.OF_WEIGHTS`` that ran.
        neighbours: the concepts that pinpoint-ness looks at.
        searched: attacks on the model, the content of ``attack.json`` by folder.
        command: how to repeat this.

    Raises:
        ValueError: a cell of the grid is incomplete, or the models' images are not paired.
    """
    styles, objects = config.axes
    _check_complete(models, config)
    summary = Summary(models=models, target=target, resamples=config.resamples, world=config.load_world())
    marks = made.marks
    same = marks["erased"].same_weights(marks["base"])
    metrics, held_out = summary.metrics(), breakdown.held_out(summary)
    gates = verdict.gates(summary, metrics, judge_card, same_weights=same)
    failed = _failed(gates) if summary.is_judged else []  # without a judge there is no number to withhold
    _strike(metrics, failed)
    context = holistic.Context(neighbours=neighbours, judge_card=judge_card, clip=config.clip)
    wider, cards = holistic.measure(summary, config.aspects, context), cards or {}
    for name, card in cards.items():
        mark_unpublished(wider, OF_WEIGHTS[name], card)
    attacks = breakdown.attacks(summary)
    holistic.withhold(wider, attacks, failed)
    for row in held_out:
        row["struck"] = " ".join(failed) or None
    hashes = {name: mark.model for name, mark in marks.items()}
    runs = [
        describe_attack(folder, run, hashes, target, failed, evaluated=described)
        for folder, run in (searched or {}).items()
    ]
    gates += verdict.null_gate(breakdown.without_null(attacks), runs) if attacks or runs else []
    decided = verdict.not_judged()
    if summary.is_judged:
        judged = next(gate["passed"] for gate in gates if gate["name"] == "judge")
        decided = verdict.decide(verdict.gather(summary, metrics, held_out, same_weights=same, judged=judged))
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": described,
        "concept": asdict(tested.concept) | {"canvas_names": list(target.names)},
        "models": hashes,
        "verdict": decided,
        "gates": gates,
        "coverage": breakdown.coverage(models, styles=styles, objects=objects, seeds=config.seeds),
        "metrics": metrics | wider,
        "aspects": {aspect: list(ASPECTS[aspect]) for aspect in config.aspects},
        "neighbours": list(neighbours),
        "held_out": held_out,
        "attacks": attacks,
        "searched": runs,
        "concepts": breakdown.concepts(summary),
        "cells": breakdown.cells(summary),
        "cost": _cost(tested, models, marks),
        "layers": made.layers,
        "provenance": _provenance(tested, judge_card) | dict(cards),
        "reproduce": command,
    }


def _check_complete(models: dict[str, Model], config: SuiteConfig) -> None:
    """Every cell full, and the same images in the same order for every model: a gap would shrink a denominator."""
    styles, objects = config.axes
    keys = models["base"].table["key"].tolist()
    for name, model in models.items():
        grid = model.table.where(lambda row: row["family"] == "template")
        check_complete(grid["style"], grid["object"], styles=styles, objects=objects, per_cell=len(config.seeds))
        own = model.table["key"].tolist()
        if own != keys:
            odd = next(iter(sorted({*own} ^ {*keys})), "their order")
            raise ValueError(f"The images of {name} and of base differ in {odd}; score both again.")


def _strike(metrics: dict[str, Any], failed: list[str]) -> None:
    """Mark the erasure numbers of the erased model with the gates that withhold them."""
    for name in ERASURE:
        metrics[name]["struck"] = " ".join(failed) or None


def _failed(gates: list[dict[str, Any]]) -> list[str]:
    withholding = ("validity", "judge", "base")
    return [gate["sentence"] for gate in gates if not gate["passed"] and gate["name"] in withholding]


def _cost(tested: subject.Subject, models: dict[str, Model], marks: dict[str, Fingerprint]) -> dict[str, Any]:
    return {
        "erasure": tested.card.get("cost"),
        "storage_bytes": subject.storage(tested.source),
        "footprint": footprint(marks["erased"], marks["base"])._asdict(),
        "seconds_per_image": {name: float(model.table["wall_s"].mean()) for name, model in models.items()},
        "forwards_per_image": {name: _mean_forwards(model.table) for name, model in models.items()},
        "images": {name: len(model.table) for name, model in models.items()},
    }


def _mean_forwards(table: Table) -> float | None:
    """UNet forwards per image in samples, which depend on the model and on no machine; None where not counted."""
    counted = [row["unet_forwards"] for row in table.rows if row["unet_forwards"] is not None]
    return sum(counted) / len(counted) if len(counted) == len(table) else None


def _provenance(tested: subject.Subject, judge_card: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": tested.name,
        "base": tested.card.get("base", {"id": tested.base_name}),
        "method": tested.card.get("method"),
        "erasure_config": tested.card.get("config"),
        "erasure_seed": tested.card.get("seed"),
        "judge": judge_card,
        **environment(),
    }
