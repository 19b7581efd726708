"""The attacks that ``erase attack`` ran on the models of an evaluation, for its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eval.attack.judge import find_judge
from eval.attack.outcome import ATTACKED, BEFORE
from eval.attack.record import AttackRecord, read_record
from eval.files import ATTACK, hash_json
from eval.formulas.attack import Rate
from eval.gate.null import explain_missing_null
from eval.measure.view import Evidence
from eval.measurements import Estimate
from eval.models.fingerprint import fingerprint
from eval.models.subject import Subject, open_erased
from eval.results import Arm, ModelInfo, SearchedAttack
from eval.suite.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One attack of a report."""

    folder: Path
    record: AttackRecord
    label: str  # of the model that was attacked, or beside which the folder lies


def find_attacks(source: Path) -> list[Path]:
    """The folders that ``erase attack`` filled and, unless told otherwise, named after a model (``OUT.soft``)."""
    place = source.absolute() if source.name != ".." else source.resolve()
    return [
        folder
        for folder in sorted(place.parent.iterdir())
        if folder.name.startswith(f"{place.name}.") and (folder / ATTACK).is_file()
    ]


def read_attack(folder: Path, *, suite: Suite) -> AttackRecord:
    """Read an attack that the user named, so that it has to fit the suite of the evaluation.

    Raises:
        FileNotFoundError: The folder holds no attack.
        ValueError: The attack is damaged, of another version, or has other prompts or another judge than ``suite``.
    """
    record = read_record(folder)
    if reason := _explain_other_suite(record, suite):
        raise ValueError(f"The attack in {folder} does not belong to this evaluation. {reason}")
    return record


def read_attacks(
    subjects: Sequence[Subject], folders: Sequence[Path], suite: Suite, *, device: str, dtype: torch.dtype
) -> list[Attacked]:
    """Read the attacks that the user named and those beside the models, each once.

    If an attack is named, every model is loaded, to tell which of them was attacked.

    Args:
        subjects: The models.
        folders: Of the attacks that the user named.
        suite: Of the evaluation; beside the models of a suite of prompt files nothing is looked for.
        device: Where models are loaded.
        dtype: Of the models.

    Raises:
        FileNotFoundError: A folder holds no attack.
        ValueError: An attack is damaged, or a named one fits neither the suite nor any model.
    """
    named = {folder.resolve(): folder for folder in folders}
    records = {place: read_attack(folder, suite=suite) for place, folder in named.items()}
    hashes = {}
    if records:
        hashes = {each.label: fingerprint(open_erased(each, device=device, dtype=dtype)).model for each in subjects}
    attacked = []
    for folder, record in records.items():
        owners = [label for label, hash_ in hashes.items() if hash_ == record.models["erased"]]
        if not owners:
            raise ValueError(
                f"The attack in {named[folder]} was run on a model of other weights ({record.models['erased'][:12]}) "
                f"than {', '.join(f'{label} ({hash_[:12]})' for label, hash_ in hashes.items())}: run `erase attack` "
                "on one of these, with the same --dtype, or leave it out."
            )
        attacked += [Attacked(folder=folder, record=record, label=label) for label in owners]
    for each in subjects:
        beside = find_attacks(each.source) if isinstance(each.source, Path) and suite.grid is not None else []
        attacked += [
            Attacked(folder=folder, record=read_record(folder), label=each.label)
            for folder in (folder.resolve() for folder in beside)
            if folder not in records
        ]
    return attacked


def describe_attacks(attacked: Sequence[Attacked], evidence: Evidence) -> list[SearchedAttack]:
    """Describe what the report keeps of each attack; one on other weights, target or judge is struck.

    Returns:
        The attacks in the order of the models.
    """
    models = {model.label: model for model in evidence.models}
    order = list(models)
    names = [(each.label, each.folder.name) for each in attacked]
    described = []
    for each in sorted(attacked, key=lambda each: order.index(each.label)):
        one = _describe(each, models[each.label], models[models[each.label].base], evidence.suite)
        if names.count((each.label, each.folder.name)) > 1:  # gates and readers tell attacks apart by their folders
            one = replace(one, folder=f"{each.folder.parent.name}/{each.folder.name}")
        described.append(one)
    return described


def explain_foreign(record: AttackRecord, model: ModelInfo, base: ModelInfo, suite: Suite) -> str:
    """Why an attack says nothing about a model: other weights, base, target, prompts or judge; empty if it does."""
    for role, own, what in (("erased", model, "a model"), ("base", base, "an erasure of a base")):
        theirs = record.models[role]
        if theirs != own.hash:
            return (
                f"It was run on {what} of other weights ({theirs[:12]}, {record.provenance['dtype']}) than the one "
                f"evaluated here ({own.hash[:12]}): run `erase attack` again, with the same --dtype."
            )
    concept = record.concept
    if (concept["kind"], sorted(concept["names"])) != (model.kind, sorted(model.names)):
        return f"It was on the {concept['kind']} {', '.join(concept['target'])}: run `erase attack` on this target."
    return _explain_other_suite(record, suite)


def budget(attack: Mapping[str, Any]) -> str:
    """What an attack may spend on each prompt.

    >>> budget({"attack": "soft", "tries": 5, "params": {"tokens": 3, "steps": 30, "optimizer": "adam"}})
    'best of 5, 3 tokens, 30 steps'
    """
    sizes = [f"{attack['params'][name]} {name}" for name in ("tokens", "steps") if name in attack["params"]]
    return ", ".join([f"best of {attack['tries']}", *sizes])


def _describe(attacked: Attacked, model: ModelInfo, base: ModelInfo, suite: Suite) -> SearchedAttack:
    record, own = attacked.record, attacked.record.attack
    results, excess = record.outcome.results, record.outcome.results.excess
    other = explain_foreign(record, model, base, suite)
    nulls = {name: arm.asr_per_image.n for name, arm in results.nulls.items()}
    missing = explain_missing_null(own["attack"], results.attack.asr_per_image.n, nulls)
    prompts = [[each.prompt, each.seed] for each in record.prompts]
    reasons = [other] if other else [record.outcome.withheld, missing]
    return SearchedAttack(
        label=model.label,
        folder=attacked.folder.name,
        attack=own["attack"],
        settings=own,
        budget=budget(own),
        n_prompts=len(prompts),
        cost=record.cost["search"],
        suite={key: record.suite[key] for key in ("name", "version", "hash")},
        protocol=hash_json([own, record.suite["hash"], prompts]),
        arms=_describe_arms(record),
        excess=Estimate(value=excess.value, lo=excess.lo, hi=excess.hi, n_prompts=excess.n) if nulls else None,
        null=excess.null if nulls else "",
        is_foreign=bool(other),
        without_null=missing,
        struck=" ".join(filter(None, reasons)),
        reproduce=record.reproduce,
    )


def _describe_arms(record: AttackRecord) -> tuple[Arm, ...]:
    """Base and model without an attack, the attack, and each null."""
    results = record.outcome.results
    arms = [
        Arm(name="base, no attack", arm="base", total=_estimate(results.base)),
        Arm(name="no attack", arm=BEFORE, total=_estimate(results.pre)),
    ]
    for arm, each in record.arms.items():
        name = record.attack["attack"] if arm == ATTACKED else f"null: {arm.replace('_', ' ')}"
        arms.append(Arm(name=name, arm=arm, total=_estimate(each.asr_total), per_image=_estimate(each.asr_per_image)))
    return tuple(arms)


def _explain_other_suite(record: AttackRecord, suite: Suite) -> str:
    """Why the images of an attack cannot stand beside those of a suite; empty if they can."""
    if suite.grid is None:
        return "It asked for cells of a grid, and the evaluation asks prompt files: name a suite with a grid."
    with_compat = record.suite["grid"]["compat"]
    if with_compat != suite.grid.compat:
        words = ("with", "without") if with_compat else ("without", "with")
        return (
            f"It was run {words[0]} compat and the evaluation {words[1]} it, which changes prompts and judge: run "
            f"`erase attack` {words[1]} --compat."
        )
    theirs, ours = (find_judge(each) or "no judge" for each in (record.suite["scorers"], suite.scorers))
    if theirs != ours:
        return (
            f"Its images were judged by {theirs} and those of the evaluation by {ours}: run `erase attack` with the "
            "suite of the evaluation."
        )
    return ""


def _estimate(share: Rate) -> Estimate:
    return Estimate(
        value=share.value,
        lo=share.lo,
        hi=share.hi,
        method="wider of Wilson and cluster bootstrap, 95 %",
        hits=share.hits,
        n=share.n,
    )
