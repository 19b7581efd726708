"""The attacks that ``erase attack`` searched on a model, for the report of its evaluation."""

import json
from pathlib import Path
from typing import Any


OTHER_WEIGHTS = "Searched on other weights than those evaluated here: run `erase attack` again."


def searched_attacks(source: Path, model: str) -> list[dict[str, Any]]:
    """Read the results beside an artefact, in the folders that ``erase attack`` names by default (``OUT.soft``).

    Args:
        source: the artefact's folder.
        model: the fingerprint of the evaluated model.

    Returns:
        For each attack its folder, its settings, a rate without attack, with it, and of each null, the excess over the
        stronger null, and ``struck``: why its numbers say nothing about this model, or None.
    """
    place = source.absolute()
    files = [folder / "attack.json" for folder in sorted(place.parent.glob(f"{_literal(place.name)}.*"))]
    contents = {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()}
    return [_entry(name, content, model) for name, content in contents.items()]


def budget(config: dict[str, Any]) -> str:
    """What an attack may spend on each prompt.

    >>> budget({"attack": "soft", "tries": 5, "params": {"tokens": 3, "steps": 30, "optimizer": "adam"}})
    'best of 5, 3 tokens, 30 steps'
    """
    sizes = [f"{config['params'][name]} {name}" for name in ("tokens", "steps") if name in config["params"]]
    return ", ".join([f"best of {config['tries']}", *sizes])


def _entry(name: str, content: dict[str, Any], model: str) -> dict[str, Any]:
    results = content["results"]
    same = content["models"]["erased"] == model
    return {
        "folder": name,
        "attack": content["attack"]["attack"],
        "budget": budget(content["attack"]),
        "arms": {
            "no attack": results["pre"],
            content["attack"]["attack"]: results["attack"]["asr_total"],
            **{f"null: {null.replace('_', ' ')}": arm["asr_total"] for null, arm in results["nulls"].items()},
        },
        "excess": results["excess"],
        "struck": content["withheld"] if same else OTHER_WEIGHTS,
        "reproduce": content["reproduce"],
    }


def _literal(name: str) -> str:
    """A folder's name as a pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
