"""The checks that withhold numbers where they fail."""

from markupsafe import Markup

from eval.report.templating import part
from eval.results import Gate, Results


PLACE = 200
OUTCOME = {True: "passed", False: "FAILED", None: "not checked"}


def applies(results: Results) -> bool:
    """Whether there are gates."""
    return bool(results.gates)


def html(results: Results) -> Markup:
    """The gates of each model."""
    return part("gates", results, gates=_by_model(results))


def markdown(results: Results) -> str:
    """One line per gate."""
    lines = [
        f"- {gate.name} of {gate.model}: {OUTCOME[gate.passed]}. {gate.sentence}"
        for gates in _by_model(results).values()
        for gate in gates
    ]
    return "\n".join(["Gates:", "", *lines])


def _by_model(results: Results) -> dict[str, list[Gate]]:
    gates = {model.label: [gate for gate in results.gates if gate.model == model.label] for model in results.models}
    return {label: own for label, own in gates.items() if own}
