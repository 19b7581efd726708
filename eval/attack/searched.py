"""The attacks that ``erase attack`` ran on a model, for the report of its evaluation; nothing here runs a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eval.attack.attack_report import ATTACK, BEFORE
from eval.models.fingerprint import fingerprint, hash_json
from eval.models.subject import Subject, open_erased
from eval.suite.grid import Target


SCHEMA_VERSION = 1  # of attack.json
NO_NULL = "An attack is reported beside a null attack of equal budget only"


def find_attacks(source: Path) -> list[Path]:
    """The folders beside an artefact that ``erase attack`` filled and by default names after it (``OUT.soft``)."""
    place = source.absolute() if source.name != ".." else source.resolve()
    return [folder for folder in sorted(place.parent.iterdir()) if _is_of(folder, place.name)]


def read_attack(folder: Path, *, suite: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of an ``attack.json``.

    Args:
        folder: where it is.
        suite: the settings of the evaluation's suite, for an attack that was named and has to fit them.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: it is damaged, one of another version, or one that asked or judged otherwise than ``suite``.
    """
    path = folder / "attack.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder that `erase attack` wrote its report into.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); run `erase attack` with this output folder again.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has the format {version}, but {SCHEMA_VERSION} is read; run `erase attack` again, or move the "
            "folder away."
        )
    if suite and (reason := _other_suite(content, suite)):
        raise ValueError(f"The attack in {folder} does not belong to this evaluation. {reason}")
    return content


def own_attacks(
    tested: Mapping[str, Subject],
    attacks: Sequence[Path],
    suite: Mapping[str, Any],
    *,
    device: str,
    dtype: torch.dtype,
) -> dict[str, list[Path]]:
    """Tell which attack was run on which model; for that the models are loaded, if there is one.

    Args:
        tested: label -> model; the attacks beside it are checked, too.
        attacks: folders that were named.
        suite: the settings of the evaluation's suite.
        device: where models are loaded.
        dtype: of the models.

    Raises:
        FileNotFoundError: a folder holds no attack.
        ValueError: an attack is damaged, or of none of the models.
    """
    attacked = {folder: read_attack(folder, suite=suite)["models"]["erased"] for folder in attacks}
    hashes = {}
    for label, each in tested.items():
        if isinstance(each.source, Path):
            for folder in find_attacks(each.source):
                read_attack(folder)
        if attacks:
            hashes[label] = fingerprint(open_erased(each, device=device, dtype=dtype)).model
    for folder, model in attacked.items():
        if model not in hashes.values():
            raise ValueError(
                f"The attack in {folder} was run on a model of other weights ({model[:12]}) than "
                f"{', '.join(f'{label} ({hash_[:12]})' for label, hash_ in hashes.items())}: run `erase attack` on one "
                "of these, with the same --dtype, or leave it out."
            )
    return {label: [folder for folder in attacks if attacked[folder] == hashes.get(label)] for label in tested}


def foreign(content: dict[str, Any], models: Mapping[str, str], target: Target, suite: Mapping[str, Any]) -> str | None:
    """Why an attack says nothing about an evaluated model, or None: other weights, base, target, prompts or judge.

    Args:
        content: of ``attack.json``.
        models: the fingerprints of ``erased`` and of ``base``; the precision of the weights is part of both.
        target: what was erased.
        suite: the settings of the evaluation's suite.
    """
    for role, what in (("erased", "a model"), ("base", "an erasure of a base")):
        theirs, ours = content["models"][role], models[role]
        if theirs != ours:
            return (
                f"It was run on {what} of other weights ({theirs[:12]}, {content['provenance']['dtype']}) than the one "
                f"evaluated here ({ours[:12]}): run `erase attack` again, with the same --dtype."
            )
    concept = content["concept"]
    if (concept["kind"], sorted(concept["canvas_names"])) != (target.kind, sorted(target.names)):
        return f"It was on the {concept['kind']} {', '.join(concept['target'])}: run `erase attack` on this target."
    return _other_suite(content, suite)


def _other_suite(content: dict[str, Any], suite: Mapping[str, Any]) -> str | None:
    theirs, ours = ((each.get("compat", False), each.get("judge", "canvas")) for each in (content["suite"], suite))
    if theirs[0] != ours[0]:
        told = ("with", "without") if theirs[0] else ("without", "with")
        return (
            f"It was run {told[0]} compat and the evaluation {told[1]} it, which changes prompts and judge: run `erase "
            f"attack` {told[1]} --compat."
        )
    if theirs[1] != ours[1]:
        return (
            f"Its images were judged by {theirs[1]} and those of the evaluation by {ours[1]}: run `erase attack` with "
            "the suite of the evaluation."
        )
    return None


def without_null(content: dict[str, Any]) -> str | None:
    """Why the success of an attack may not be read: it has no null, or one that drew fewer images; None if it may."""
    results, name = content["results"], content["attack"]["attack"]
    if not results["nulls"]:
        return f"{NO_NULL}; {name!r} has none."
    own = results["attack"]["asr_per_image"]["n"]
    counts = {null: arm["asr_per_image"]["n"] for null, arm in results["nulls"].items()}
    odd = next((null for null, n in counts.items() if n != own), None)
    return odd and f"{NO_NULL}; {name!r} has {own} images and its null {odd.replace('_', ' ')} has {counts[odd]}."


def describe_attack(
    folder: Path,
    content: dict[str, Any],
    models: Mapping[str, str],
    target: Target,
    failed: Sequence[str],
    *,
    evaluated: Mapping[str, Any],
) -> dict[str, Any]:
    """What the report of an evaluation keeps of an attack.

    Args:
        folder: where it is.
        content: of its ``attack.json``.
        models: the fingerprints of ``erased`` and of ``base``.
        target: what was erased.
        failed: the sentences of the gates of the evaluation that withhold every number of the erasure.
        evaluated: the settings of the evaluation's suite.

    Returns:
        The attack's name, its budget, and under ``arms`` one entry for base and model without an attack, for the
        attack and for each null: the share of prompts with the target (``total``) and of images (``per_image``), each
        with value, lo, hi, hits and n. ``excess`` is over the stronger null. ``protocol`` is equal where two attacks
        had the same prompts, seeds, suite and budget. ``struck`` says why the numbers may not be read, or None.
    """
    results, attack, suite = content["results"], content["attack"], content["suite"]
    other, null = foreign(content, models, target, evaluated), without_null(content)
    prompts = [[record["prompt"], record["seed"]] for record in content["prompts"]]
    arms = [
        _arm("base, no attack", "base", results["base"], None),
        _arm("no attack", BEFORE, results["pre"], None),
        _arm(attack["attack"], ATTACK, results["attack"]["asr_total"], results["attack"]["asr_per_image"]),
        *(
            _arm(f"null: {name.replace('_', ' ')}", name, arm["asr_total"], arm["asr_per_image"])
            for name, arm in results["nulls"].items()
        ),
    ]
    reasons = [other] if other else [content["withheld"], null, *failed]
    return {
        "folder": folder.name,
        "attack": attack["attack"],
        "settings": attack,
        "budget": budget(attack),
        "n_prompts": len(prompts),
        "search": content["cost"]["search"],
        "suite": {key: suite[key] for key in ("name", "version", "hash")},
        "protocol": hash_json([attack, suite["hash"], prompts]),
        "arms": arms,
        "excess": results["excess"] if results["nulls"] else None,
        "is_foreign": other is not None,
        "without_null": null,
        "struck": " ".join(filter(None, reasons)) or None,
        "reproduce": content["reproduce"],
    }


def budget(attack: dict[str, Any]) -> str:
    """What an attack may spend on each prompt.

    >>> budget({"attack": "soft", "tries": 5, "params": {"tokens": 3, "steps": 30, "optimizer": "adam"}})
    'best of 5, 3 tokens, 30 steps'
    """
    sizes = [f"{attack['params'][name]} {name}" for name in ("tokens", "steps") if name in attack["params"]]
    return ", ".join([f"best of {attack['tries']}", *sizes])


def by_protocol(searched: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Attacks of one protocol side by side.

    Args:
        searched: label of an evaluated model -> its attacks.

    Returns:
        Tables: their title, their ``rows`` (names of the arms that any of them has) and their ``runs``, each with the
        label of its model.
    """
    tables: dict[str, dict[str, Any]] = {}
    for label, runs in searched.items():
        for run in runs:
            title = f"{run['attack']}: {run['budget']}; {run['n_prompts']} prompts of {run['suite']['name']}"
            table = tables.setdefault(run["protocol"], {"title": title, "runs": []})
            table["runs"].append(run | {"label": label})
    for table in tables.values():
        table["rows"] = list(dict.fromkeys(arm["name"] for run in table["runs"] for arm in run["arms"]))
        labels = [run["label"] for run in table["runs"]]
        for run in table["runs"]:  # the same attack with other seeds of its search
            run["note"] = run["folder"] if labels.count(run["label"]) > 1 else ""
    return list(tables.values())


def _arm(name: str, arm: str, total: dict[str, Any], per_image: dict[str, Any] | None) -> dict[str, Any]:
    return {"name": name, "arm": arm, "total": total, "per_image": per_image}


def _is_of(folder: Path, name: str) -> bool:
    return folder.name.startswith(f"{name}.") and (folder / "attack.json").is_file()
