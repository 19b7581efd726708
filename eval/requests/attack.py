"""``erase attack`` and ``erase.attack``: read what is asked for, attack, and sum up the result."""

from dataclasses import dataclass
from pathlib import Path

from erase.concept import Concept
from erase.model.base_model import pick_device, pick_dtype


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user of ``erase attack`` asks for; ``erase.attack`` says what each field means."""

    folder: Path
    attack: str
    suite: str
    target: list[str]
    tokens: int | None = None
    steps: int | None = None
    tries: int | None = None
    prompts: str = ""
    out: Path | None = None
    kind: str | None = None
    base_model: str | None = None
    judge_style: str = ""
    judge_object: str = ""
    compat: bool = False
    seed: int = 0
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    quiet: bool = False
    command: str = ""


def attack_one(request: Request) -> str:
    """Attack one model; returns the result and where the report is, in lines for a terminal."""
    from eval.attack.record import read_record
    from eval.report.attack_lines import summary_lines

    report = run_attack(request)
    return "\n".join([*summary_lines(read_record(report.parent)), f"Report: {report}"])


def run_attack(request: Request) -> Path:
    """Attack one model.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: A folder or a file is missing.
        ValueError: A setting is wrong, or the model cannot be attacked this way.
    """
    from eval.attack.config import load_attack
    from eval.attack.run import Options, attack
    from eval.models import subject
    from eval.suite.suite import load_suite

    if request.kind and not request.target:
        raise ValueError(f"--kind {request.kind} says what kind the target is, but no --target is given: add it.")
    config = load_attack(request.attack, tries=request.tries, params={"tokens": request.tokens, "steps": request.steps})
    suite = load_suite(
        request.suite,
        judge_style=request.judge_style,
        judge_object=request.judge_object,
        compat=request.compat,
        batch_size=request.batch_size,
    )
    concept = Concept(target=tuple(request.target), kind=request.kind or "style") if request.target else None
    tested = subject.describe(request.folder, concept=concept, base=request.base_model)
    place = request.folder if request.folder.name not in ("", "..") else request.folder.resolve()
    return attack(
        tested,
        config,
        suite,
        request.out or place.with_name(f"{place.name}.{config.attack}"),
        Options(
            prompts=request.prompts,
            seed=request.seed,
            device=pick_device(request.device),
            dtype=pick_dtype(request.dtype),
            progress=not request.quiet,
            command=request.command,
        ),
    )
