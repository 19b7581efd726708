"""Targets that were erased one after another: UA of every request after every step, rebound, and what is retained.

Erase the first target; erase the second from the result; and so on. ``erase eval STEP-1 STEP-2 --sequence`` evaluates
all steps with one suite and shows the numbers in the report.
"""

from collections.abc import Sequence as Steps

import numpy as np

from eval.formulas.sequential import rebound
from eval.measure.clusters import clusters
from eval.measure.estimates import estimate_sample, proportion
from eval.measure.view import Evidence, Sample
from eval.measurements import Estimate, Sequence
from eval.score.table import Table
from eval.suite.grid import Target


REBOUND = "wider of paired cluster bootstrap and Newcombe, 95 %"


def measure_sequence(evidence: Evidence) -> Sequence:
    """The numbers of a sequence of erasures; its steps are the erased models in their order.

    A step may name its own target only, or all targets so far.

    ``ua[j][i]`` is UA of request i after step j; ``rebound[j][i]`` is how far it fell since the request's own step:
    above 0, the request comes back. ``retained[j]`` is the mean of IRA and CRA on prompts without any request so far.

    Raises:
        ValueError: There is one step only, a step without a new target, or steps whose images are not paired.
    """
    steps = [model for model in evidence.models if model.role == "erased"]
    labels = tuple(model.label for model in steps)
    requests = check_order([(model.label, evidence.targets.get(model.group)) for model in steps])
    names = tuple(" and ".join(request.names).replace("_", " ") for request in requests)
    if not evidence.is_judged:
        why = evidence.provided.get("judge_style", "no scorer of the suite is a judge")
        return Sequence(labels=labels, requests=names, not_run=why)
    grids = [evidence.scores[label].records.where(lambda row: row["family"] == "template") for label in labels]
    if any(grid["key"].tolist() != grids[0]["key"].tolist() for grid in grids):
        raise ValueError("The steps hold different images; evaluate every step with the same suite and seeds.")
    if any(grid["latent_hash"].tolist() != grids[0]["latent_hash"].tolist() for grid in grids):
        raise ValueError("The steps start from different latents; evaluate every step at one image size.")
    resamples = evidence.suite.resamples
    ua: list[list[Estimate | None]] = []
    back: list[list[Estimate | None]] = []
    first = [_gone(grids[place], request) for place, request in enumerate(requests)]
    for step, grid in enumerate(grids):
        later = len(requests) - step - 1
        own = [_gone(grid, request) for request in requests[: step + 1]]
        ua.append([proportion(*part, resamples=resamples) for part in own] + [None] * later)
        fell = [_rebound(one[0], *part, resamples=resamples) for one, part in zip(first, own[:-1], strict=False)]
        back.append([*fell, None, *[None] * later])
    retained = [_retained(grid, requests[: step + 1], resamples) for step, grid in enumerate(grids)]
    return Sequence(labels=labels, requests=names, ua=ua, rebound=back, retained=retained)


def check_order(steps: Steps[tuple[str, Target | None]]) -> list[Target]:
    """What each step adds to the targets of the steps before it.

    Args:
        steps: What to call each step in an error, and its target.

    Raises:
        ValueError: There is one step only, a step without a new target, or a suite without a grid.
    """
    if len(steps) < 2:
        raise ValueError("A sequence sets models side by side that were erased one after another: name two or more.")
    requests: list[Target] = []
    for name, target in steps:
        if target is None:
            raise ValueError(f"The sequence has the step {name}, but its suite has prompt files: use a grid suite.")
        before = {name for request in requests if request.kind == target.kind for name in request.names}
        new = tuple(label for label in target.names if label not in before)
        if not new:
            raise ValueError(f"The step {name} erases nothing that the steps before it have not; leave it out.")
        requests.append(Target(target.kind, new))
    return requests


def _gone(grid: Table, request: Target) -> tuple[np.ndarray, np.ndarray]:
    """Whether a request no longer shows in the images that ask for it, (n,) bool, and their prompts."""
    part = grid.where(lambda row: request.is_asked(row["style"], row["object"]))
    axes = dict.fromkeys(axis for axis, _ in request.parts)
    gone = np.logical_or.reduce([part[axis] != part[f"judge_{axis}"] for axis in axes])
    return gone, clusters(part.rows)


def _rebound(before: np.ndarray, after: np.ndarray, prompts: np.ndarray, *, resamples: int) -> Estimate:
    fell = rebound(before, after, prompts, resamples=resamples)
    return Estimate(value=fell.value, lo=fell.lo, hi=fell.hi, method=REBOUND, n_images=fell.n)


def _retained(grid: Table, requests: Steps[Target], resamples: int) -> Estimate:
    others = grid.where(lambda row: not any(request.is_asked(row["style"], row["object"]) for request in requests))
    if not len(others):
        raise ValueError("Every prompt of the suite asks for a request; what is retained needs other prompts.")
    right = (
        (others["style"] == others["judge_style"]).astype(float) + (others["object"] == others["judge_object"])
    ) / 2
    sample = Sample(values=right, base=None, clusters=clusters(others.rows))
    return estimate_sample(sample, resamples=resamples)
