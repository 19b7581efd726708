"""Evaluate an erased model: generate, score, compare with base and gold, and write the report.

Stages talk through files (images and manifests, ``scores.jsonl`` and ``features.safetensors``, ``report.json``), so
a stopped evaluation goes on where it was, and the numbers can be recomputed from the scores alone.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.numpy import save_file

from erase.concept import Concept
from erase.prompts import find_data
from eval.attack.searched import find_attacks, foreign, read_attack
from eval.content import Made, build_report
from eval.draw.generate import generate, image_settings, process_state
from eval.draw.placement import Drawing, place_evaluation
from eval.files import replacing, write_json
from eval.measure import compare
from eval.measure.aggregate import WEIGHTS_ABSENT, Model
from eval.measure.compare import SCHEMA_VERSION
from eval.measure.distances import not_run
from eval.measure.seeds import by_erasure, over_seeds, sibling_reports
from eval.measure.sequence import read_sequence
from eval.models import subject
from eval.models.clock import Clock, drawing_modules, spent_by_all
from eval.models.fingerprint import Fingerprint, fingerprint, hash_json
from eval.models.layers import layer_changes
from eval.models.neighbours import find_neighbours
from eval.report import page as report
from eval.score.scorers import latents
from eval.score.scoring import Scored, Scorers, load_scorers, score
from eval.score.table import write_scores
from eval.suite.aspects import check_aspects
from eval.suite.config import SuiteConfig, describe_suite, load_suite
from eval.suite.grid import Target, attack_rows, check_labels, find_target, grid_rows, held_out_rows
from eval.suite.rows import Row
from eval.suite.world import COMBINATION


def evaluate(
    source: Path | DiffusionPipeline,
    suite: str | SuiteConfig,
    out: Path,
    *,
    base: str | DiffusionPipeline | None = None,
    concept: Concept | None = None,
    cache: Path | None = None,
    seeds: Sequence[int] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    scorers: Scorers | None = None,
    attacks: Sequence[Path] = (),
    trust_remote_code: bool = False,
    progress: bool = True,
    command: str = "",
    label: str = "erased",
) -> Path:
    """Evaluate one erased model and write ``report.html``, ``report.md`` and ``report.json``.

    Args:
        source: an artefact folder, any diffusers folder, or a loaded pipeline.
        suite: a name in ``configs/suites``, a YAML file, or the configuration itself.
        out: folder for the images, the scores and the report; a stopped evaluation in it is continued, and where it
            holds images of another model or of other settings, all goes into a folder beside it.
        base: the model before the erasure; by default what ``erasure.json`` says.
        concept: what was erased; by default what ``erasure.json`` says.
        cache: where images of base and gold models are kept for other evaluations; ``out`` if not given.
        seeds: instead of the suite's, for the grid and the held-out wordings alike.
        device: where models that this function loads run.
        dtype: of models that this function loads.
        scorers: instead of the suite's judge and CLIP model.
        attacks: folders that ``erase attack`` filled for this model; those beside ``source`` are found without it.
        trust_remote_code: allow a folder without ``erasure.json`` to bring its own pipeline code.
        progress: show progress bars.
        command: how to repeat this, printed in the report.
        label: what to call the model in the report.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: a folder or an image is missing.
        ValueError: a setting is wrong, a cell of the grid is incomplete, or one of ``attacks`` is of another model.
    """
    clock = Clock()
    config = suite if isinstance(suite, SuiteConfig) else load_suite(suite)
    if seeds is not None:
        config = replace(config, seeds=list(seeds), held_out_seeds=list(seeds))
    check_aspects(config.aspects)
    tested = subject.describe(source, concept=concept, base=base)
    target = find_target(tested.concept.target, tested.concept.kind, config.load_world())
    rows = suite_rows(config, target)
    with clock.load():
        scorers = scorers or load_scorers(config, device=device)  # before hours of generation: weights may be missing
    described = describe_suite(config)
    searched = _read_attacks(tested.source, attacks, described)
    images = _Images(config, rows, out, cache or out / "reference", progress, clock)
    made = _generate_all(tested, target, images, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    out = images.out
    state = process_state()
    state.wait_for_everyone()
    if not state.is_main_process:  # every process generates its share of the images, one scores them all
        return out / "report.html"
    _check_attacks(searched, attacks, made, target, described)
    if images.vae is not None:
        scorers = replace(scorers, latents=latents.load(latents.Config(vae=images.vae)))
    with clock.watch(scorers.networks()):
        scored = _score_all(images.folders, rows, scorers, config)
    _write_scores(out, scored)
    models = {
        name: Model(table=each.table, features=each.features, clip=each.clip, inception=each.inception)
        for name, each in scored.items()
    }
    content = build_report(
        config,
        tested,
        target,
        models,
        made,
        described=described,
        judge_card=_judge_card(scorers),
        cards=scorers.cards(),
        neighbours=images.neighbours,
        searched=searched,
        command=command,
    )
    content["folders"] = {name: os.path.relpath(folder, out) for name, folder in images.folders.items()}
    content["over_seeds"] = over_seeds(content, sibling_reports(out))
    content["cost"]["evaluation"] = clock.spent
    evaluation = compare.Evaluation(label=label, folder=out, content=content, models=models)
    write_json(out / "report.json", content | {"label": label, "comparison": compare.compare([evaluation])})
    return report.render(out)


def combine(folders: Mapping[str, Path], out: Path, *, command: str = "", is_sequence: bool = False) -> Path:
    """Write one report of several evaluated models side by side.

    Args:
        folders: label -> what ``evaluate`` filled; at least one, all with one suite.
        out: folder for the common ``report.html``, ``report.md`` and ``report.json``.
        command: how to repeat this, printed in the report.
        is_sequence: the targets were erased one after another, in this order; see ``eval.measure.sequence``.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: a folder holds no evaluation.
        ValueError: the models cannot be compared; it says why.
    """
    evaluations = [compare.read_evaluation(label, folder) for label, folder in folders.items()]
    compared = compare.compare(evaluations)
    costs = [each.content["cost"] for each in evaluations]
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "suite": evaluations[0].content["suite"],
        "evaluations": {each.label: os.path.relpath(each.folder, out) for each in evaluations},
        "verdicts": {each.label: each.content["verdict"] for each in evaluations},
        "metrics": compare.metric_table(evaluations, compare.find_columns(evaluations)),
        "comparison": compared,
        "searched": {each.label: each.content["searched"] for each in evaluations},
        "over_seeds": by_erasure({each.label: each.content for each in evaluations}),
        # what reports of an earlier version took is not known
        "cost": {"evaluation": spent_by_all([cost["evaluation"] for cost in costs if "evaluation" in cost])},
        "reproduce": command,
    }
    if is_sequence:
        judged = all(each.summary.is_judged for each in evaluations)
        resamples = content["suite"]["resamples"]
        steps = [*folders.values()]
        content["sequence"] = read_sequence(steps, resamples=resamples) if judged else not_run(WEIGHTS_ABSENT)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", content)
    return report.render(out)


def suite_rows(config: SuiteConfig, target: Target) -> list[Row]:
    """All rows of a suite for a target: the grid, then the held-out wordings, then the attack prompts.

    Raises:
        FileNotFoundError: a prompt file is missing.
        ValueError: the grid does not hold the target, or nothing else, or a prompt file is malformed or does not fit.
    """
    styles, objects = config.axes
    for axis, name in target.parts:
        known = styles if axis == "style" else objects
        if name not in known:
            raise ValueError(f"The suite {config.name!r} has no {axis} {name!r}; it has {', '.join(known)}.")
    _check_combination(config, target)
    world = config.load_world()
    rows = grid_rows(styles, objects, config.seeds, target, world=world)
    if all(row.role == "target" or row.style in world.uncounted_styles for row in rows):
        raise ValueError(
            f"The suite {config.name!r} has no prompts without {', '.join(target.names)}, so it cannot tell what else "
            "is hurt; add other names."
        )
    if config.held_out:
        path = find_data(config.held_out, within="prompts", suffix=".csv")
        rows += held_out_rows(path, target, config.held_out_seeds)
    if config.attacks:
        rows += attack_rows(find_data(config.attacks, within="prompts", suffix=".csv"), target, config.held_out_seeds)
    check_labels(rows, world, one_object=config.judge == "timm_pair")
    return rows


def _check_combination(config: SuiteConfig, target: Target) -> None:
    """Refuse a suite in which SC, OC and UP of a combination would have no images, or that asks for more than them."""
    if target.kind != COMBINATION:
        return
    if any(len(axis) < 2 for axis in config.axes):
        raise ValueError(
            f"The suite {config.name!r} has one style or one object only, but what remains beside {target.names[0]} "
            "shows in others: add some."
        )
    if config.aspects:
        raise ValueError(
            f"The suite {config.name!r} has the aspects {', '.join(config.aspects)}, which are those of a style or an "
            f"object, but the target {target.names[0]} is both together: use a suite without aspects, such as canvas."
        )


def find_gold(config: SuiteConfig, tested: subject.Subject, target: Target) -> str | None:
    """The concept of the gold model that stands beside a model, if the suite wants one and one is shipped."""
    from erase.canvas.weights import gold_names

    is_asked = config.gold and tested.base == "canvas" and len(target.names) == 1
    return target.names[0] if is_asked and target.names[0] in gold_names() else None


@dataclass
class _Images:
    """Where the images of each model are, and how to make them."""

    config: SuiteConfig
    rows: list[Row]
    out: Path
    cache: Path
    progress: bool
    clock: Clock
    folders: dict[str, Path] = field(default_factory=dict)
    vae: AutoencoderKL | None = None  # of the base, where latents are compared
    neighbours: list[str] = field(default_factory=list)

    def look_at_base(self, pipe: DiffusionPipeline, target: Target) -> None:
        """Take from the base, while it is loaded, what the aspects of the suite need of it."""
        if "general_image" in self.config.aspects:
            vae = pipe.components.get("vae")
            self.vae = vae if isinstance(vae, AutoencoderKL) else None  # others have no latents that can be compared
        if "pinpoint_ness" in self.config.aspects:
            names, world = (
                self.config.axes[0] if target.kind == "style" else self.config.axes[1],
                self.config.load_world(),
            )
            names = [name for name in names if name not in world.uncounted_styles]
            self.neighbours = find_neighbours(pipe, target, names, self.config.neighbours, world=world)

    def make(self, name: str, pipe: DiffusionPipeline) -> Fingerprint:
        """Generate what is missing; base and gold do not know what was erased, so their rows carry no role."""
        config = self.config
        rows, folder = self.rows, self.out / name
        if name != "erased":
            settings = image_settings(pipe, config.num_inference_steps, config.guidance_scale)
            folder = self.cache / hash_json(settings)[:16]
            rows = [Row(**(asdict(row) | {"role": ""})) for row in rows]
        with self.clock.watch(drawing_modules(pipe)):
            generate(
                pipe,
                rows,
                folder,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                batch_size=config.batch_size,
                label=f"images of {name}",
                progress=self.progress,
            )
        self.folders[name] = folder
        return fingerprint(pipe)


def _generate_all(
    tested: subject.Subject,
    target: Target,
    images: _Images,
    *,
    device: str,
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> Made:
    """Generate with one model at a time, so that memory holds one of them."""
    with images.clock.load():
        base = subject.open_base(tested, device=device, dtype=dtype)
    images.look_at_base(base, target)
    marks = {"base": images.make("base", base)}
    del base
    if gold := find_gold(images.config, tested, target):
        from erase.canvas.weights import load_gold

        with images.clock.load():
            pipe = load_gold(gold, dtype=dtype).to(device)
        marks["gold"] = images.make("gold", pipe)
        del pipe
    with images.clock.load():
        pipe = subject.open_erased(tested, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        drawing = Drawing("erased", tested._replace(source=pipe), images.rows)
        images.out = place_evaluation(images.out, [drawing], images.config, device=device, dtype=dtype)
    return Made({"erased": images.make("erased", pipe)} | marks, layer_changes(pipe, tested.base))


def _score_all(folders: dict[str, Path], rows: list[Row], scorers: Scorers, config: SuiteConfig) -> dict[str, Scored]:
    base = score(folders["base"], rows, scorers, tau=config.tau)
    others = {
        name: score(folder, rows, scorers, tau=config.tau, base=base)
        for name, folder in folders.items()
        if name != "base"
    }
    scored = {"erased": others["erased"], "base": base}
    return scored | {name: each for name, each in others.items() if name != "erased"}


def _read_attacks(
    source: Path | DiffusionPipeline, given: Sequence[Path], suite: dict[str, Any]
) -> dict[Path, dict[str, Any]]:
    """The attacks that were given and those beside the model, each once."""
    named = {folder.resolve(): read_attack(folder, suite=suite) for folder in given}
    beside = [folder.resolve() for folder in find_attacks(source)] if isinstance(source, Path) else []
    return named | {folder: read_attack(folder) for folder in beside if folder not in named}


def _check_attacks(
    searched: dict[Path, dict[str, Any]], given: Sequence[Path], made: Made, target: Target, suite: dict[str, Any]
) -> None:
    """Refuse an attack that was named and is of another model; one that only lies beside it is marked."""
    models = {name: mark.model for name, mark in made.marks.items()}
    for folder in given:
        if reason := foreign(searched[folder.resolve()], models, target, suite):
            raise ValueError(f"The attack in {folder} does not belong to this model. {reason}")


def _judge_card(scorers: Scorers) -> dict[str, Any]:
    """What the judge says about itself; a module of the caller's may have nothing to say."""
    return dict(vars(scorers.classifier.judge).get("card", {})) if scorers.classifier else {}


def _write_scores(out: Path, scored: dict[str, Scored]) -> None:
    write_scores(out / "scores.jsonl", {name: each.table for name, each in scored.items()})
    kept = {name: each.features for name, each in scored.items() if each.features is not None}
    kept |= {f"clip/{name}": each.clip for name, each in scored.items() if each.clip is not None}
    kept |= {f"inception/{name}": each.inception for name, each in scored.items() if each.inception is not None}
    with replacing(out / "features.safetensors") as partial:
        save_file(kept, partial)
