"""Targets that were erased one after another: UA of every request after every step, rebound, and what is retained.

Erase the first target, evaluate; erase the second from the result, evaluate; and so on, always with one suite. Then
``erase eval STEP-1 STEP-2 --sequence`` shows the numbers in the report, and ``read_sequence`` returns them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.formulas.intervals import cluster_bootstrap, wider, wilson
from eval.formulas.sequential import rebound, sequential
from eval.measure.aggregate import BOOTSTRAP, PROPORTION, prompt_index
from eval.score.table import Table, read_scores
from eval.suite.grid import Target


DIFFERENCE = "wider of paired cluster bootstrap and Newcombe, 95 %"


def read_sequence(outs: Sequence[Path], *, resamples: int = 1000) -> dict[str, Any]:
    """The numbers of a sequence from the folders that ``eval.evaluate.evaluate`` filled, one per step.

    Args:
        outs: the steps in order. A step may name its own target only, or all targets so far.
        resamples: of the bootstrap over prompts.

    Returns:
        ``requests`` (targets), ``ua[j][i]`` (request i after step j), ``rebound[j][i]`` (how far UA of request i fell
        since its own step; above 0 it comes back) and ``retained[j]`` (mean of IRA and CRA on prompts without any
        request so far), each with value, lo, hi, n and ci_method, shares with hits; None above the diagonal.

    Raises:
        FileNotFoundError: a folder holds no report.
        ValueError: no steps, a step without a new target, or steps whose images are not paired.
    """
    if not outs:
        raise ValueError("A sequence needs at least one evaluation; give the output folders in order.")
    grids = [read_scores(out / "scores.jsonl")["erased"].where(lambda row: row["family"] == "template") for out in outs]
    if any(grid["key"].tolist() != grids[0]["key"].tolist() for grid in grids):
        raise ValueError("The steps hold different images; evaluate every step with the same suite and seeds.")
    if any(grid["latent_hash"].tolist() != grids[0]["latent_hash"].tolist() for grid in grids):
        raise ValueError("The steps start from different latents; evaluate every step at one image size.")
    if any(row["judge_style"] is None for grid in grids for row in grid.rows):
        raise ValueError("A step was not judged, since the judge's weights are absent; evaluate it with them.")
    requests = _requests(outs)
    size = len(outs)
    parts = {(j, i): _asking(grids[j], [request]) for j in range(size) for i, request in enumerate(requests[: j + 1])}
    gone = {place: _gone(part, requests[place[1]]) for place, part in parts.items()}
    counts = sequential(
        np.concatenate(list(gone.values())),
        np.concatenate([np.full(len(hits), j) for (j, _), hits in gone.items()]),
        np.concatenate([np.full(len(hits), i) for (_, i), hits in gone.items()]),
    )
    ua: list[list[Any]] = [[None] * size for _ in range(size)]
    back: list[list[Any]] = [[None] * size for _ in range(size)]
    for (j, i), hits in gone.items():
        prompts = prompt_index(parts[j, i])
        drawn = cluster_bootstrap([hits.astype(float)], prompts, resamples=resamples)
        lo, hi = wider(wilson(int(counts.hits[j, i]), int(counts.n[j, i])), drawn)
        share = {"value": float(counts.ua[j, i]), "hits": int(counts.hits[j, i]), "n": int(counts.n[j, i])}
        ua[j][i] = share | {"lo": lo, "hi": hi, "ci_method": PROPORTION}
        if j > i:
            found = rebound(gone[i, i], hits, prompts, resamples=resamples)
            back[j][i] = found._asdict() | {"ci_method": DIFFERENCE}
    return {
        "requests": [{"kind": request.kind, "names": list(request.names)} for request in requests],
        "ua": ua,
        "rebound": back,
        "retained": [_retained(grids[j], requests[: j + 1], resamples) for j in range(size)],
    }


def _requests(outs: Sequence[Path]) -> list[Target]:
    targets = []
    for out in outs:
        path = out / "report.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; run `erase eval` with this output folder first.")
        concept = json.loads(path.read_text(encoding="utf-8"))["concept"]
        targets.append((str(out), Target(concept["kind"], tuple(concept["canvas_names"]))))
    return _find_requests(targets)


def check_order(steps: Sequence[tuple[str, Target]]) -> None:
    """Refuse, before anything is drawn, models that are no sequence of erasures; see ``read_sequence``.

    Args:
        steps: what to call each step in an error, and its target.

    Raises:
        ValueError: one step only, or a step without a new target.
    """
    if len(steps) < 2:
        raise ValueError("A sequence sets models side by side that were erased one after another: name two or more.")
    _find_requests(steps)


def _find_requests(steps: Sequence[tuple[str, Target]]) -> list[Target]:
    """What each step, by what an error calls it, adds to the targets of the steps before it."""
    requests: list[Target] = []
    for name, target in steps:
        before = {name for request in requests if request.kind == target.kind for name in request.names}
        new = tuple(label for label in target.names if label not in before)
        if not new:
            raise ValueError(f"The step {name} erases nothing that the steps before it have not; leave it out.")
        requests.append(Target(target.kind, new))
    return requests


def _asking(grid: Table, requests: Sequence[Target]) -> Table:
    return grid.where(lambda row: any(request.is_asked(row["style"], row["object"]) for request in requests))


def _gone(part: Table, request: Target) -> np.ndarray:
    axes = dict.fromkeys(axis for axis, _ in request.parts)
    return np.logical_or.reduce([part[axis] != part[f"judge_{axis}"] for axis in axes])


def _retained(grid: Table, requests: Sequence[Target], resamples: int) -> dict[str, Any]:
    asking = {row["key"] for row in _asking(grid, requests).rows}
    kept = grid.where(lambda row: row["key"] not in asking)
    if not len(kept):
        raise ValueError("Every prompt of the suite asks for a request; what is retained needs other prompts.")
    right = ((kept["style"] == kept["judge_style"]).astype(float) + (kept["object"] == kept["judge_object"])) / 2
    lo, hi = cluster_bootstrap([right], prompt_index(kept), resamples=resamples)
    return {"value": float(right.mean()), "lo": lo, "hi": hi, "n": len(kept), "ci_method": BOOTSTRAP}
