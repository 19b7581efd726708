"""``erase eval`` and ``erase.evaluate``: check every model that is named, then evaluate all of them into one report."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erase.concept import Concept
from erase.model.base_model import CANVAS, pick_device, pick_dtype


if TYPE_CHECKING:
    from eval.draw.plan import Job
    from eval.groups import Group
    from eval.models.subject import Subject
    from eval.suite.suite import Suite


_SEVERAL = Path("erase-eval")  # where the report of several models goes by default


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user of ``erase eval`` asks for; ``erase.evaluate`` says what each field means."""

    paths: list[str]
    suite: str
    target: list[str]
    kind: str | None = None
    base_model: str | None = None
    out: Path | None = None
    cache: Path | None = None
    attacks: list[Path]
    judge_style: str = ""
    judge_object: str = ""
    compat: bool = False
    sequence: bool = False
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    quiet: bool = False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class EvalSummary:
    """The report, and whether all weights were there that the suite's judge and scorers need."""

    report: Path
    is_judged: bool

    @property
    def line(self) -> str:
        """One line for a terminal: where the report is, and what it took."""
        from eval.results import read_results

        spent = read_results(self.report.parent).cost.evaluation
        return (
            f"Report: {self.report}, in {spent['seconds']:.1f} s, {spent['outside']:.1%} of it outside UNet, VAE and "
            f"scorers; loading took {spent['loading_seconds']:.1f} s"
        )


def evaluate_all(request: Request) -> EvalSummary:
    """Evaluate the models into one folder with one report."""
    suite, subjects, out = _prepare(request)  # before torch is imported: a mistake is told at once
    from eval.evaluate import Options, evaluate

    done = evaluate(
        subjects,
        suite,
        out,
        Options(
            cache=request.cache,
            attacks=tuple(request.attacks),
            is_sequence=request.sequence,
            device=pick_device(request.device),
            dtype=pick_dtype(request.dtype),
            progress=not request.quiet,
            command=request.command,
        ),
    )
    return EvalSummary(report=done.report, is_judged=done.is_judged)


def plan_all(request: Request) -> Iterator[str]:
    """Yield what ``evaluate_all`` would do, in lines for a terminal: first the counts, then the time.

    It draws, judges and writes nothing, but it checks the models as an evaluation does, so that a hub id is downloaded.
    Weights are loaded only where the output holds images, to tell whose they are; whose the attacks are is not known.
    """
    from eval.draw.placement import Drawing, holds_images, place_evaluation
    from eval.draw.plan import Job, describe
    from eval.groups import check_out, plan_groups
    from eval.score.scorers_of import scorer_lines

    suite, subjects, out = _prepare(request)
    if request.attacks:
        _check_attacks(request, suite)
    suite, groups = plan_groups(subjects, suite, is_sequence=request.sequence)
    check_out(out, suite, [each.label for each in subjects])
    drawings = [Drawing(each.label, each, group.rows) for group in groups for each in group.subjects]
    if holds_images(out, drawings):  # only then models are loaded, to tell whose images these are
        out = place_evaluation(out, drawings, suite, device="cpu", dtype=pick_dtype(request.dtype))
    jobs = [Job(each.label, each.name, group.rows, out / each.label) for group in groups for each in group.subjects]
    yield from describe(
        suite,
        [*_reference_jobs(suite, groups, out), *jobs],
        out=out,
        device=request.device,
        dtype=request.dtype,
        scorer_lines=scorer_lines(suite),
    )


def _check_attacks(request: Request, suite: "Suite") -> None:
    from eval.attack.searched import read_attack

    for folder in request.attacks:
        read_attack(folder, suite=suite)


def _reference_jobs(suite: "Suite", groups: list["Group"], out: Path) -> list["Job"]:
    """Models of one base share its images, and models of one target those of its gold model, of the base's size."""
    from eval.draw.plan import Job
    from eval.groups import find_gold

    rows: dict[tuple[str, str], dict] = {}
    for group in groups:
        gold, base = find_gold(suite, group), group.subjects[0].base_name
        for label in ["base", *([f"gold without {gold}"] if gold else [])]:
            rows.setdefault((label, base), {}).update({row.key: row for row in group.rows})
    return [Job(label, base, list(own.values()), out / "none") for (label, base), own in rows.items()]


def _prepare(request: Request) -> tuple["Suite", list["Subject"], Path]:
    """The suite, the models and the output folder; a mistake in the last model is found before anything is drawn."""
    from eval.suite.suite import load_suite

    suite = load_suite(
        request.suite,
        judge_style=request.judge_style,
        judge_object=request.judge_object,
        compat=request.compat,
        batch_size=request.batch_size,
    )
    if suite.kind == "prompts":
        _check_prompts(request)
    subjects = _describe(request)
    return suite, subjects, request.out or _default_out(request, subjects)


def _check_prompts(request: Request) -> None:
    """Refuse what belongs to a grid suite."""
    flags = {"--attacks": request.attacks, "--sequence": request.sequence}
    if given := next((flag for flag, value in flags.items() if value), None):
        raise ValueError(
            f"The suite {request.suite!r} has prompt files and scorers of its own, but {given} is given: leave it out."
        )


def _describe(request: Request) -> list["Subject"]:
    """Find the models; each is called by its folder's name or, if that is taken, with its parent's name before it."""
    from eval.groups import RESERVED
    from eval.models import subject

    names = [path if path == CANVAS else Path(path).absolute().name for path in request.paths]
    folders = [subject.find_source(path) for path in request.paths]
    given = _given(request, [(folder / "erasure.json").is_file() for folder in folders])
    subjects: list[Subject] = []
    for path, name, folder in zip(request.paths, names, folders, strict=True):
        place = Path(path).absolute()
        label = f"{place.parent.name}-{name}" if names.count(name) > 1 or name in RESERVED else name
        if any(other.label == label for other in subjects):
            raise ValueError(f"Two of the models would be called {label!r}: name each once, or rename a folder.")
        base = request.base_model or (CANVAS if path == CANVAS else None)  # the canvas is its own base
        concept = None if (folder / "erasure.json").is_file() else given
        subjects.append(subject.describe(folder, label=label, concept=concept, base=base))
    return subjects


def _given(request: Request, has_card: list[bool]) -> Concept | None:
    """What --target and --kind say was erased."""
    if (request.target or request.kind) and all(has_card):
        raise ValueError(
            "--target and --kind say what was erased from folders without erasure.json, but every folder here has one: "
            "leave them out."
        )
    if request.kind and not request.target:
        raise ValueError(f"--kind {request.kind} says what kind the target is, but no --target is given: add it.")
    return Concept(target=tuple(request.target), kind=request.kind or "style") if request.target else None


def _default_out(request: Request, subjects: list["Subject"]) -> Path:
    """``erase-eval`` for several models; for one beside its folder, or here if it is no folder of the user's."""
    if len(subjects) > 1:
        return _SEVERAL
    path, folder = request.paths[0], subjects[0].source
    if path == CANVAS or not Path(path).exists() or not isinstance(folder, Path):
        return Path(f"{subjects[0].label}.eval")
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    return folder.with_name(f"{folder.name}.eval")
