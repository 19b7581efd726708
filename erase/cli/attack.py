"""The body of ``erase attack``: read what was asked for, attack, and sum up what was found."""

import json
from pathlib import Path

from erase.concept import Concept
from erase.model.base_model import pick_device, pick_dtype


def attack_one(
    folder: Path,
    attack: str,
    suite: str,
    *,
    tokens: int | None,
    steps: int | None,
    tries: int | None,
    prompts: str,
    out: Path | None,
    target: list[str],
    kind: str | None,
    base_model: str | None,
    judge_style: str,
    judge_object: str,
    compat: bool,
    seed: int,
    device: str,
    dtype: str,
    quiet: bool,
    command: str,
) -> str:
    """Attack one model into ``out``.

    Args:
        folder: What ``erase run`` made, or any diffusers folder.
        attack: An attack by name or file.
        suite: A suite by name or file.
        tokens: In front of the prompt, in the place of the attack's own.
        steps: Of each try, in the place of the attack's own.
        tries: Images for each prompt, in the place of the attack's own.
        prompts: A CSV of prompts, in the place of the suite's grid.
        out: Where everything goes; ``FOLDER.ATTACK`` unless given.
        target: What was erased from a folder without ``erasure.json``.
        kind: Of that target; a style unless given.
        base_model: What the model was made from.
        judge_style: Checkpoint of the judge's style classifier, in the place of the suite's.
        judge_object: The same of its object classifier.
        compat: As the published code of the suite's benchmark has it, where that differs.
        seed: All randomness of the search derives from it.
        device: See ``pick_device``.
        dtype: See ``pick_dtype``.
        quiet: No progress bars.
        command: How to repeat this, for the report.

    Returns:
        What was found and where the report is, in lines for a terminal.

    Raises:
        FileNotFoundError: a folder or a file is missing.
        ValueError: a setting is wrong, or the model cannot be attacked this way.
    """
    from eval.attack.attack_report import summary_lines
    from eval.attack.robustness import attack as attack_model
    from eval.suite.config import load_attack, load_suite

    if kind and not target:
        raise ValueError(f"--kind {kind} says what kind the target is, but no --target is given: add it.")
    config = load_attack(attack, tries=tries, params={"tokens": tokens, "steps": steps})
    place = folder if folder.name not in ("", "..") else folder.resolve()
    report = attack_model(
        folder,
        config,
        load_suite(suite, judge_style=judge_style, judge_object=judge_object, compat=compat),
        out or place.with_name(f"{place.name}.{config.attack}"),
        prompts=prompts,
        base=base_model,
        concept=Concept(target=tuple(target), kind=kind or "style") if target else None,
        seed=seed,
        device=pick_device(device),
        dtype=pick_dtype(dtype),
        progress=not quiet,
        command=command,
    )
    return "\n".join([*summary_lines(json.loads(report.read_text(encoding="utf-8"))), f"Report: {report}"])
