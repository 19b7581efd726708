"""The body of ``erase eval``: check every model that was named, evaluate each, then set them side by side."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from erase.concept import Concept
from erase.model.base_model import CANVAS, pick_device, pick_dtype


if TYPE_CHECKING:
    import torch

    from eval.evaluate_prompts import Named as PromptModel
    from eval.models.subject import Subject
    from eval.suite.config import SuiteConfig
    from eval.suite.rows import Row


_TAKEN = ("base", "gold", "reference")  # what a report and its folder call something else
_ONE, _SEVERAL_MODELS, _PROMPTS = "one model", "several models", "prompt files"  # what a report may be of
_SEVERAL = Path("erase-eval")  # where the report of several models goes by default


class _Named(NamedTuple):
    """A model on the command line: what to call it, where it is, whether it has an ``erasure.json``, and its base."""

    label: str
    folder: Path
    has_card: bool
    base: str | None


class EvalSummary(NamedTuple):
    """The report, and whether the weights that the suite names were there; without a judge's nothing is known."""

    report: Path
    is_judged: bool

    @property
    def line(self) -> str:
        """One line for a terminal: where the report is, and what it took."""
        spent = json.loads(self.report.with_name("report.json").read_text(encoding="utf-8"))["cost"]["evaluation"]
        return (
            f"Report: {self.report}, in {spent['seconds']:.1f} s, {spent['outside']:.1%} of it outside UNet, VAE and "
            f"scorers; loading took {spent['loading_seconds']:.1f} s"
        )


def evaluate_all(
    paths: list[str],
    suite: str,
    *,
    target: list[str],
    kind: str | None,
    base_model: str | None,
    out: Path | None,
    cache: Path | None,
    attacks: list[Path],
    judge_style: str,
    judge_object: str,
    compat: bool,
    sequence: bool,
    device: str,
    dtype: str,
    quiet: bool,
    command: str,
) -> EvalSummary:
    """Evaluate one model into ``out``, or several into ``out/<label>`` with one report in ``out``.

    Args:
        paths: Artefact folders, diffusers folders, hub ids, or ``canvas``.
        suite: A suite by name or file.
        target: What was erased from those that have no ``erasure.json``.
        kind: Of that target; a style unless given.
        base_model: What they were made from.
        out: Where everything goes; ``PATH.eval`` for one model and ``erase-eval`` for several, unless given. Where that
            holds images of other models or settings, everything goes beside it.
        cache: Where images of base and gold models are kept for other evaluations.
        attacks: Folders that ``erase attack`` filled, each for one of the models.
        judge_style: Checkpoint of the judge's style classifier, in the place of the suite's.
        judge_object: The same of its object classifier.
        compat: As the published code of the suite's benchmark has it, where that differs.
        sequence: The models come from erasing one target after another, in this order.
        device: See ``pick_device``.
        dtype: See ``pick_dtype``.
        quiet: No progress bars.
        command: How to repeat this, for the report.

    Returns:
        The report, and whether it is judged.
    """
    from eval.attack.searched import own_attacks
    from eval.draw.generate import process_state
    from eval.evaluate import combine, evaluate
    from eval.suite.config import has_weights, load_suite
    from eval.suite.prompt_config import is_prompt_suite

    if is_prompt_suite(suite):
        _check_prompts(suite, judge_style or judge_object, attacks, compat=compat, sequence=sequence)
        return _evaluate_prompts(
            paths,
            suite,
            target=target,
            kind=kind,
            base_model=base_model,
            out=out,
            cache=cache,
            device=device,
            dtype=dtype,
            quiet=quiet,
            command=command,
        )
    settings = load_suite(suite, judge_style=judge_style, judge_object=judge_object, compat=compat)
    named = _name(paths, base_model)
    given = _given(named, target, kind)
    several = len(named) > 1
    # a mistake in the last one is found before the first one costs an hour
    described = _describe(settings, named, given, is_sequence=sequence)
    tested = {model.label: each for model, (each, _) in zip(named, described, strict=True)}
    asked = out or _default_out(paths, named)
    where = _place(asked, named, described, settings, device=pick_device(device), dtype=pick_dtype(dtype))
    folders = {model.label: where / model.label if several else where for model in named}
    attacks_of = own_attacks(tested, attacks, asdict(settings), device=pick_device(device), dtype=pick_dtype(dtype))
    report = where
    for model in named:
        report = evaluate(
            model.folder,
            settings,
            folders[model.label],
            base=model.base,
            concept=None if model.has_card else given,
            cache=cache or asked / "reference",
            attacks=attacks_of[model.label],
            device=pick_device(device),
            dtype=pick_dtype(dtype),
            progress=not quiet,
            command=command,
            label=model.label if several else "erased",
        )
    if several and process_state().is_main_process:
        report = combine(folders, where, command=command, is_sequence=sequence)
    return EvalSummary(report, has_weights(settings))


def plan_all(
    paths: list[str],
    suite: str,
    *,
    target: list[str],
    kind: str | None,
    base_model: str | None,
    out: Path | None,
    attacks: list[Path],
    judge_style: str,
    judge_object: str,
    compat: bool,
    sequence: bool,
    device: str,
    dtype: str,
) -> str:
    """What ``evaluate_all`` would do, in lines for a terminal; the arguments are the same.

    It draws, judges and writes nothing, but it checks the models as an evaluation does, so that a hub id is downloaded.
    Weights are loaded only where the output holds images, to tell whose they are; whose the attacks are is not known.
    """
    from eval.attack.searched import read_attack
    from eval.draw.plan import Job, describe
    from eval.evaluate import find_gold
    from eval.suite.config import load_suite
    from eval.suite.grid import find_target
    from eval.suite.prompt_config import is_prompt_suite
    from eval.suite.rows import Row

    if is_prompt_suite(suite):
        _check_prompts(suite, judge_style or judge_object, attacks, compat=compat, sequence=sequence)
        named = _name(paths, base_model)
        models = _describe_prompts(named, _given(named, target, kind))
        return _plan_prompts(models, suite, out or _default_out(paths, named), device=device, dtype=dtype)
    settings = load_suite(suite, judge_style=judge_style, judge_object=judge_object, compat=compat)
    for folder in attacks:
        read_attack(folder, suite=asdict(settings))
    named = _name(paths, base_model)
    described = _describe(settings, named, _given(named, target, kind), is_sequence=sequence)
    asked = out or _default_out(paths, named)
    where = _place(asked, named, described, settings, device="cpu", dtype=pick_dtype(dtype))
    # models of one base share its images, and models of one target those of its gold model, which has the base's size
    references: dict[tuple[str, str], dict[str, Row]] = {}
    several, jobs = len(named) > 1, list[Job]()
    for model, (tested, rows) in zip(named, described, strict=True):
        concept = tested.concept
        gold = find_gold(settings, tested, find_target(concept.target, concept.kind, settings.load_world()))
        for label in ["base", *([f"gold without {gold}"] if gold else [])]:
            references.setdefault((label, tested.base_name), {}).update({row.key: row for row in rows})
        folder = (where / model.label if several else where) / "erased"
        jobs.append(Job(model.label, str(model.folder), rows, folder))
    shared = [Job(label, base, list(rows.values()), where / "none") for (label, base), rows in references.items()]
    return describe(settings, [*shared, *jobs], out=where, device=device, dtype=dtype)


def _evaluate_prompts(
    paths: list[str],
    suite: str,
    *,
    target: list[str],
    kind: str | None,
    base_model: str | None,
    out: Path | None,
    cache: Path | None,
    device: str,
    dtype: str,
    quiet: bool,
    command: str,
) -> EvalSummary:
    """The same for a suite of prompt files, whose models come into one report from the start."""
    from eval.evaluate_prompts import evaluate
    from eval.suite.prompt_config import load_prompt_suite

    named = _name(paths, base_model)
    models = _describe_prompts(named, _given(named, target, kind))
    where = out or _default_out(paths, named)
    _check_out(where, [], expected=_PROMPTS)
    report, is_judged = evaluate(
        models,
        load_prompt_suite(suite),
        where,
        cache=cache,
        device=pick_device(device),
        dtype=pick_dtype(dtype),
        progress=not quiet,
        command=command,
    )
    return EvalSummary(report, is_judged)


def _check_prompts(suite: str, judge: str, attacks: list[Path], *, compat: bool, sequence: bool) -> None:
    """Refuse what belongs to a grid suite."""
    flags = {"--judge-style or --judge-object": judge, "--attacks": attacks, "--compat": compat, "--sequence": sequence}
    if given := next((flag for flag, value in flags.items() if value), None):
        raise ValueError(
            f"The suite {suite!r} has prompt files and scorers of its own, but {given} is given: leave it out."
        )


def _describe_prompts(named: list[_Named], given: Concept | None) -> list["PromptModel"]:
    """The models of a suite of prompt files, each with its base."""
    from eval.evaluate_prompts import Named
    from eval.models import subject

    return [
        Named(
            model.label,
            subject.describe(model.folder, concept=None if model.has_card else given, base=model.base),
        )
        for model in named
    ]


def _plan_prompts(models: list["PromptModel"], suite: str, where: Path, *, device: str, dtype: str) -> str:
    from eval.draw.placement import Drawing, place_evaluation
    from eval.draw.plan import Job, describe_prompts
    from eval.suite.prompt_config import aim, load_prompt_suite, suite_rows

    config = aim(load_prompt_suite(suite), [model.subject.concept for model in models])
    rows = suite_rows(config)
    drawings = [Drawing(model.label, model.subject, rows) for model in models]
    where = place_evaluation(where, drawings, config, device="cpu", dtype=pick_dtype(dtype))
    bases = dict.fromkeys(model.subject.base_name for model in models)
    jobs = [Job("base", base, rows, where / "none") for base in bases]
    jobs += [Job(model.label, model.subject.name, rows, where / model.label) for model in models]
    return describe_prompts(config, jobs, out=where, device=device, dtype=dtype)


def _given(named: list[_Named], target: list[str], kind: str | None) -> Concept | None:
    """What --target and --kind say was erased."""
    if (target or kind) and all(model.has_card for model in named):
        raise ValueError(
            "--target and --kind say what was erased from folders without erasure.json, but every folder here has one: "
            "leave them out."
        )
    if kind and not target:
        raise ValueError(f"--kind {kind} says what kind the target is, but no --target is given: add it.")
    return Concept(target=tuple(target), kind=kind or "style") if target else None


def _describe(
    settings: "SuiteConfig", named: list[_Named], given: Concept | None, *, is_sequence: bool
) -> list[tuple["Subject", "list[Row]"]]:
    """What is known of every model, and its rows.

    Raises:
        ValueError: something that one of the evaluations would refuse.
    """
    from eval.evaluate import suite_rows
    from eval.measure.sequence import check_order
    from eval.models import subject
    from eval.suite.grid import find_target

    found, targets = [], []
    for model in named:
        tested = subject.describe(model.folder, concept=None if model.has_card else given, base=model.base)
        target = find_target(tested.concept.target, tested.concept.kind, settings.load_world())
        targets.append((model.label, target))
        found.append((tested, suite_rows(settings, target)))
    if is_sequence:
        check_order(targets)
    return found


def _place(
    out: Path,
    named: list[_Named],
    described: list[tuple["Subject", "list[Row]"]],
    settings: "SuiteConfig",
    *,
    device: str,
    dtype: "torch.dtype",
) -> Path:
    """The folder for all models; see ``eval.draw.placement``.

    Raises:
        ValueError: it cannot be written, or holds a report of another kind.
    """
    from eval.draw.placement import Drawing, place_evaluation

    several = len(named) > 1
    below = [model.label if several else "" for model in named]
    _check_out(out, [out / each for each in below], expected=_SEVERAL_MODELS if several else _ONE)
    drawings = [Drawing(str(Path(each) / "erased"), *model) for each, model in zip(below, described, strict=True)]
    return place_evaluation(out, drawings, settings, device=device, dtype=dtype)


def _check_out(where: Path, folders: list[Path], *, expected: str) -> None:
    """Refuse an output that cannot be written, or that holds a report of another kind.

    Raises:
        ValueError: it says which.
    """
    for place in (where, *folders):
        if place.exists() and not place.is_dir():
            raise ValueError(f"The output {place} is a file: name a folder.")
    for place, wanted in {**dict.fromkeys(folders, _ONE), where: expected}.items():
        kind = _kind_of_report(place)
        if kind not in (None, wanted):
            raise ValueError(
                f"The output {place} holds a report of {kind}, where one of {wanted} would be written: choose "
                "another folder."
            )


def _kind_of_report(place: Path) -> str | None:
    path = place / "report.json"
    if not path.is_file():
        return _ONE if (place / "erased" / "settings.json").is_file() else None  # a stopped one
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it, or choose another folder.") from error
    if "curves" in content:
        return _PROMPTS
    return _SEVERAL_MODELS if "evaluations" in content else _ONE


def _name(paths: list[str], base_model: str | None) -> list[_Named]:
    """Find the folders, and call each by its own name, or where that is taken, with its parent's before it."""
    from eval.models.subject import find_source

    names = [path if path == CANVAS else Path(path).absolute().name for path in paths]
    named: list[_Named] = []
    for path, name in zip(paths, names, strict=True):
        place = Path(path).absolute()
        label = f"{place.parent.name}-{name}" if names.count(name) > 1 or name in _TAKEN else name
        if any(other.label == label for other in named):
            raise ValueError(f"Two of the models would be called {label!r}: name each once, or rename a folder.")
        folder = find_source(path)
        base = base_model or (CANVAS if path == CANVAS else None)  # the canvas is its own base
        named.append(_Named(label, folder, (folder / "erasure.json").is_file(), base))
    return named


def _default_out(paths: list[str], named: list[_Named]) -> Path:
    return _SEVERAL if len(named) > 1 else _beside(paths[0], named[0])


def _beside(path: str, model: _Named) -> Path:
    """The default output for one model: beside its folder, or here where it is not a folder of the user's."""
    if path == CANVAS or not Path(path).exists():
        return Path(f"{model.label}.eval")
    folder = model.folder if model.folder.name not in ("", "..") else model.folder.resolve()
    return folder.with_name(f"{folder.name}.eval")
