"""The reports of one erasure that was trained with several seeds (``erase run --seeds``), taken together."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.formulas.spread import spread


_NAME = re.compile(r"(?P<stem>.+-seed)\d+(?P<suffix>.*)", re.DOTALL)


def over_seeds(content: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and spread of every metric over a report and those of the same settings, model and suite with other seeds.

    Args:
        content: the content of a ``report.json``.
        others: the contents of further ones; what does not belong to the same erasure is left out.

    Returns:
        The seeds and, by metric, a ``Spread`` as a dictionary, with ``struck`` where a gate withholds the number of any
        seed; None where there is no second seed.
    """
    mine = _identity(content)
    alike = [each for each in others if mine is not None and _identity(each) == mine]
    found = {each["provenance"]["erasure_seed"]: each for each in (*alike, content)}
    if len(found) < 2:
        return None
    reports = [found[seed] for seed in sorted(found)]
    metrics = {}
    for name in content["metrics"]:
        entries = [report["metrics"][name] for report in reports]
        estimates = [entry["erased"] for entry in entries if entry["erased"]]
        values = [each["value"] for each in estimates if each["value"] is not None]
        if len(values) == len(entries):
            struck = next((entry["struck"] for entry in entries if entry.get("struck")), None)
            metrics[name] = spread(values)._asdict() | {"struck": struck}
    return {"seeds": sorted(found), "metrics": metrics}


def by_erasure(contents: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for each erasure among models that are set side by side.

    Args:
        contents: label -> the content of its ``report.json``.

    Returns:
        ``labels``, ``seeds`` and ``metrics`` of every erasure of which two seeds or more are known.
    """
    found: list[dict[str, Any]] = []
    taken: set[str] = set()
    for label, content in contents.items():
        if label in taken:
            continue
        labels = [each for each, other in contents.items() if _identity(other) == _identity(content)]
        over = over_seeds(content, [contents[each] for each in labels]) or content["over_seeds"]
        if over:
            taken |= {*labels}
            found.append({"labels": labels, **over})
    return found


def sibling_reports(out: Path) -> list[dict[str, Any]]:
    """The reports beside ``out`` that have its name but for the number of the seed, such as ``vg-seed1.eval``."""
    match = _NAME.fullmatch(out.name)
    if match is None:
        return []
    names = {place.name: _NAME.fullmatch(place.name) for place in sorted(out.absolute().parent.iterdir())}
    alike = [name for name, other in names.items() if other and other.groups() == match.groups() and name != out.name]
    files = [out.absolute().with_name(name) / "report.json" for name in alike]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def _identity(content: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What two reports share if only the seed of the erasure differs; None for what was not made by a run."""
    provenance = content.get("provenance")  # a report of several models has none of its own
    if provenance is None or provenance.get("erasure_config") is None:
        return None
    settings = {name: value for name, value in provenance["erasure_config"].items() if name != "seed"}
    return settings, provenance["base"], content["suite"]["hash"], content["schema_version"]
