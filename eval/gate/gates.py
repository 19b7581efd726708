"""All gates of a report: which numbers stand, and why others do not."""

from collections.abc import Sequence

from eval.formulas.accuracy import check_complete
from eval.gate.attacks import check_attacks
from eval.gate.content import check_content
from eval.gate.floor import check_floor
from eval.gate.reliability import check_judge
from eval.gate.soundness import check_base, check_validity
from eval.gate.trial import Trial
from eval.measure.engine import Measured
from eval.measure.view import Evidence
from eval.results import Gate, ModelInfo, SearchedAttack


def judge(evidence: Evidence, measured: Measured, searched: Sequence[SearchedAttack] = ()) -> list[Gate]:
    """Check every base, and every erased model beside its base.

    ``judge``, ``null attack``, ``base`` and ``floor`` are about a base and withhold numbers of all of its models;
    ``validity``, ``content`` and ``weights`` are about one model. A check of several files or things gives one gate for
    each that failed, or one that passed. ``eval.gate.strike.apply`` withholds the numbers.

    Args:
        evidence: The scores.
        measured: What ``eval.measure.engine.measure`` made from them.
        searched: Attacks of ``erase attack`` on models of the report.

    Returns:
        The gates, in the order in which they are applied.

    Raises:
        ValueError: A cell of a grid lacks an image, or has one too many.
    """
    gates = []
    for base in evidence.models:
        if base.role != "base":
            continue
        models = tuple(each for each in evidence.models if each.role == "erased" and each.base == base.label)
        trial = Trial(evidence=evidence, measured=measured, searched=searched, base=base, models=models)
        gates += [
            *_check_completeness(trial),
            *check_judge(trial),
            *check_attacks(trial),
            *check_base(trial),
            *check_floor(trial),
        ]
        for model in models:
            gates += [*check_validity(trial, model), check_content(trial, model), _check_weights(model)]
    return gates


def _check_completeness(trial: Trial) -> list[Gate]:
    """Refuse a grid with a gap, which would shrink a denominator; the models of a base have the rows of the base."""
    grid, rows = trial.evidence.suite.grid, trial.view.grid
    if grid is None:
        return []
    styles, objects = grid.axes
    check_complete(rows["style"], rows["object"], styles=styles, objects=objects, per_cell=len(grid.seeds))
    sentence = "Every cell holds the number of images that it should; a gap would have stopped the report."
    return [Gate(name="completeness", model=trial.base.label, passed=True, sentence=sentence)]


def _check_weights(model: ModelInfo) -> Gate:
    """Say whether anything was removed from the weights; no number is withheld for it."""
    sentence = "The weights differ from the base's."
    if model.same_weights:
        sentence = "Nothing is removed from the weights: they are the base's, so what the images lack is in them."
    return Gate(name="weights", model=model.label, passed=not model.same_weights, sentence=sentence)
