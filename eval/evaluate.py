"""Evaluate erased models beside their bases: draw, score, measure, gate, report; for any suite and number of models.

Stages talk through files (images and manifests, ``scores.jsonl`` and ``features.safetensors``, ``report.json``), so a
stopped evaluation goes on where it was, and the numbers can be computed again from the scores alone.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline

from eval.attack.searched import describe_attacks, read_attacks
from eval.draw.drawn import Drawn
from eval.draw.generate import generate, image_settings, process_state
from eval.draw.placement import Drawing, place_evaluation
from eval.files import hash_json
from eval.gate.gates import judge
from eval.gate.strike import apply
from eval.gate.verdict import decide
from eval.groups import Group, base_key, check_out, find_gold, plan_groups
from eval.measure.engine import measure
from eval.measure.seeds import over_seeds, sibling_results
from eval.measure.sequence import measure_sequence
from eval.measure.view import Evidence
from eval.models import subject
from eval.models.clock import Clock, drawing_modules
from eval.models.fingerprint import Fingerprint, fingerprint, footprint
from eval.models.layers import layer_changes
from eval.models.neighbours import find_neighbours
from eval.models.subject import Subject
from eval.report.page import render
from eval.report.wall import build_wall
from eval.results import Cost, ModelCost, ModelInfo, Results, SearchedAttack, Verdict, make_provenance, write_results
from eval.score.run import Scorers, load_scorers, score_all
from eval.score.table import Scores, write_scores
from eval.suite.rows import Row
from eval.suite.suite import Suite


CARD = ("method", "config", "seed", "base", "cost")  # what a report keeps of erasure.json


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate.

    Attributes:
        cache: Where images of base and gold models are kept for other evaluations; ``OUT/reference`` unless given.
        attacks: Folders that ``erase attack`` filled; those beside a model are shown without it.
        is_sequence: The models erase one target after another, in this order.
        device: Where models that this function loads run.
        dtype: Of models that this function loads.
        progress: Show progress bars.
        command: How to repeat this, printed in the report.
    """

    cache: Path | None = None
    attacks: tuple[Path, ...] = ()
    is_sequence: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    progress: bool = True
    command: str = ""


class Evaluation(NamedTuple):
    """The report, and whether everything that the suite asks for had its weights."""

    report: Path
    is_judged: bool


def evaluate(
    subjects: Sequence[Subject],
    suite: Suite,
    out: Path,
    options: Options | None = None,
    *,
    scorers: Scorers | None = None,
) -> Evaluation:
    """Draw the rows of a suite with every model, its base and its gold model, score the images, and write one report.

    A stopped evaluation goes on with the images and scores that ``out`` and the cache hold. Images of other models or
    settings in ``out`` stay alone: everything then goes into a folder beside it.

    Args:
        subjects: The erased models, each with a label of its own, which is the name of its folder.
        suite: What is asked.
        out: Folder for ``<label>/images``, the scores and the report.
        options: How to evaluate.
        scorers: In place of the suite's own.

    Returns:
        The path of ``report.html``, and whether everything that the suite asks for was scored.

    Raises:
        FileNotFoundError: A model, a prompt file or weights do not exist.
        ValueError: Two models have one label, a setting is wrong, or ``out`` holds a report of another kind.
    """
    options = options or Options()
    clock = Clock()
    suite, groups = plan_groups(subjects, suite, is_sequence=options.is_sequence)
    attacked = read_attacks(subjects, options.attacks, suite, device=options.device, dtype=options.dtype)
    check_out(out, suite, [each.label for each in subjects])
    with clock.load():
        scorers = scorers or load_scorers(suite, device=options.device)  # before hours of drawing
        cache = options.cache or out / "reference"  # of that name for all settings
        drawings = [Drawing(each.label, each, group.rows) for group in groups for each in group.subjects]
        out = place_evaluation(out, drawings, suite, device=options.device, dtype=options.dtype)
    studio = _Studio(suite, out, cache, options, clock, scorers)
    studio.draw(groups)
    process_state().wait_for_everyone()
    if not process_state().is_main_process:  # every process draws its share of the images, one scores them all
        return Evaluation(out / "report.html", scorers.is_complete)
    evidence = studio.score(groups)
    results = build_results(evidence, describe_attacks(attacked, evidence), is_sequence=options.is_sequence)
    results = replace(
        results,
        layers=studio.layers,
        wall=build_wall(evidence, {each.label: each.folder for each in studio.drawn}, out),
        cost=Cost(evaluation=clock.spent, models=_costs(groups, studio.drawn, evidence.scores)),
        reproduce=options.command,
    )
    write_results(out, replace(results, over_seeds=over_seeds(results, sibling_results(out))))
    return Evaluation(render(out), scorers.is_complete)


def build_results(evidence: Evidence, searched: Sequence[SearchedAttack] = (), *, is_sequence: bool = False) -> Results:
    """Everything of a report that follows from the scores alone: numbers, gates, verdicts.

    Raises:
        ValueError: The images of two models are not paired, or a cell of a grid is incomplete.
    """
    measured = measure(evidence)
    gates = judge(evidence, measured, searched)
    struck = apply(gates, measured, searched)
    verdicts: Mapping[str, Verdict] = decide(evidence, struck.metrics, gates, struck.held_out)
    return Results(
        kind=evidence.suite.kind,
        suite=evidence.suite.describe(),
        models=list(evidence.models),
        metrics=dict(struck.metrics),
        verdicts=dict(verdicts),
        gates=list(gates),
        differences=list(measured.differences),
        held_out=list(struck.held_out),
        attacks=list(struck.attacks),
        searched=list(struck.searched),
        concepts=list(measured.concepts),
        cells=dict(measured.cells),
        curves=list(measured.curves),
        sequence=measure_sequence(evidence) if is_sequence else None,
        neighbours={str(group): list(names) for group, names in evidence.neighbours.items()},
        images=len(next(iter(evidence.scores.values())).records),
        provenance=make_provenance(evidence.cards),
    )


@dataclass
class _Studio:
    """Draws with one model at a time, so that memory holds one of them, and scores the images of all of them."""

    suite: Suite
    out: Path
    cache: Path
    options: Options
    clock: Clock
    scorers: Scorers
    drawn: list[Drawn] = field(default_factory=list)
    neighbours: dict[int, list[str]] = field(default_factory=dict)
    layers: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)

    def draw(self, groups: Sequence[Group]) -> None:
        """Draw the rows of every group with its base, its gold model and its erased models."""
        for key in dict.fromkeys(base_key(group.subjects[0]) for group in groups):
            self._draw_base([group for group in groups if base_key(group.subjects[0]) == key])
        for group in groups:
            if gold := find_gold(self.suite, group):
                self._draw_gold(group, gold)
            for each in group.subjects:
                self._draw_erased(group, each)
        place = {"base": 0, "gold": 1, "erased": 2}
        self.drawn.sort(key=lambda each: (each.group, place[each.role]))

    def score(self, groups: Sequence[Group]) -> Evidence:
        """Score all images, and write the scores."""
        with self.clock.load():
            self.scorers.open()
        with self.clock.watch(self.scorers.networks()):
            scores = score_all(self.drawn, {group.number: group.rows for group in groups}, self.scorers)
            real = self.scorers.real_arrays(self.drawn[0], groups[0].rows[0], self.cache)
        write_scores(self.out, scores)
        return Evidence(
            suite=self.suite,
            models=_model_infos(groups, self.drawn, self.out),
            scores=scores,
            targets={group.number: group.target for group in groups if group.target is not None},
            provided=self.scorers.provided,
            neighbours=self.neighbours,
            cards=self.scorers.cards(),
            real=real,
        )

    def _draw_base(self, groups: Sequence[Group]) -> None:
        options, first = self.options, groups[0].subjects[0]
        pipe, mark = self._load(lambda: subject.open_base(first, device=options.device, dtype=options.dtype))
        self.scorers.look_at_base(pipe, mark)
        for group in groups:
            self._look_for_neighbours(pipe, group)
            self._add(pipe, mark, group, group.base, "base")

    def _draw_gold(self, group: Group, concept: str) -> None:
        from erase.canvas.weights import load_gold

        options = self.options
        pipe, mark = self._load(lambda: load_gold(concept, dtype=options.dtype).to(options.device))
        self._add(pipe, mark, group, group.gold, "gold")

    def _draw_erased(self, group: Group, each: Subject) -> None:
        options = self.options
        pipe, mark = self._load(partial(subject.open_erased, each, device=options.device, dtype=options.dtype))
        self._add(pipe, mark, group, each.label, "erased")
        self.layers[each.label] = layer_changes(pipe, each.base)

    def _load(self, load: Callable[[], DiffusionPipeline]) -> tuple[DiffusionPipeline, Fingerprint]:
        with self.clock.load():
            pipe = load()
            return pipe, fingerprint(pipe)

    def _add(self, pipe: DiffusionPipeline, mark: Fingerprint, group: Group, label: str, role: str) -> None:
        """Draw what is missing; base and gold do not know what was erased, so their rows carry no role."""
        rows, folder = group.rows, self.out / label
        if role != "erased":
            rows = tuple(replace(row, role="") for row in rows) if group.target else rows
            folder = self.cache / self._cache_name(pipe, mark, rows)
        with self.clock.watch(drawing_modules(pipe)):
            generate(
                pipe,
                rows,
                folder,
                self.suite.sampler,
                fingerprint=mark,
                label=f"images of {label}",
                progress=self.options.progress,
            )
        base = "" if role == "base" else group.base
        self.drawn.append(Drawn(label=label, role=role, base=base, folder=folder, fingerprint=mark, group=group.number))

    def _cache_name(self, pipe: DiffusionPipeline, mark: Fingerprint, rows: Sequence[Row]) -> str:
        """A name for the images of a base; ids of two prompt files may be equal, those of a grid are not."""
        settings = image_settings(pipe, self.suite.sampler, fingerprint=mark)
        if self.suite.kind == "grid":
            return hash_json(settings)[:16]
        return hash_json([settings, [(row.key, row.prompt, row.guidance_scale) for row in rows]])[:16]

    def _look_for_neighbours(self, pipe: DiffusionPipeline, group: Group) -> None:
        """Find the concepts nearest to the target in the base's text encoder, where the suite's metrics need them."""
        grid = self.suite.grid
        if grid is None or group.target is None or "pinpoint_ness" not in self.suite.metrics:
            return
        world = grid.load_world()
        names = grid.axes[0 if group.target.kind == "style" else 1]
        names = [name for name in names if name not in world.uncounted_styles]
        self.neighbours[group.number] = find_neighbours(pipe, group.target, names, grid.neighbours, world=world)


def _model_infos(groups: Sequence[Group], drawn: Sequence[Drawn], out: Path) -> list[ModelInfo]:
    marks = {each.label: each.fingerprint for each in drawn}
    subjects = {each.label: each for group in groups for each in group.subjects}
    infos = []
    for each in drawn:
        group = groups[each.group]
        info = ModelInfo(
            label=each.label,
            role=each.role,
            group=each.group,
            base=each.base,
            hash=each.fingerprint.model,
            folder=os.path.relpath(each.folder, out),
            names=group.target.names if group.target else (),
            base_name=group.subjects[0].base_name,
        )
        if own := subjects.get(each.label) if each.role == "erased" else None:
            info = replace(
                info,
                target=tuple(own.concept.target),
                kind=own.concept.kind,
                anchor=own.concept.anchor,
                source=own.name,
                same_weights=each.fingerprint.same_weights(marks[each.base]),
                card={key: value for key, value in own.card.items() if key in CARD},
            )
        infos.append(info)
    return infos


def _costs(groups: Sequence[Group], drawn: Sequence[Drawn], scores: Mapping[str, Scores]) -> dict[str, ModelCost]:
    marks = {each.label: each.fingerprint for each in drawn}
    subjects = {each.label: each for group in groups for each in group.subjects}
    costs = {}
    for each in drawn:
        rows = scores[each.label].records.rows
        forwards = [row["unet_forwards"] for row in rows if row["unet_forwards"] is not None]
        cost = ModelCost(
            seconds_per_image=sum(row["wall_s"] for row in rows) / len(rows),
            forwards_per_image=sum(forwards) / len(forwards) if len(forwards) == len(rows) else None,
            images=len(rows),
        )
        if each.role == "erased":
            own = subjects[each.label]
            cost = replace(
                cost,
                erasure=own.card.get("cost"),
                storage_bytes=subject.storage(own.source),
                footprint=footprint(each.fingerprint, marks[each.base])._asdict(),
            )
        costs[each.label] = cost
    return costs
