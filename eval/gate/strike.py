"""Withholding of numbers: the one place where what failed gates withhold is marked as struck."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.gate.trial import HELD_OUT, attack_key, search_key
from eval.measure.engine import Measured
from eval.measurements import MetricResult, Wording
from eval.results import Gate, SearchedAttack


@dataclass(frozen=True, kw_only=True)
class Struck:
    """Every number that a gate may withhold, with the reasons in ``struck``."""

    metrics: dict[str, MetricResult]
    held_out: list[Wording]
    attacks: list[Wording]
    searched: list[SearchedAttack]


def apply(gates: Sequence[Gate], measured: Measured, searched: Sequence[SearchedAttack] = ()) -> Struck:
    """Mark every number that gates withhold, with the sentences of these gates in their order."""
    reasons: dict[tuple[str, str], list[str]] = {}  # key and label -> sentences
    for gate in gates:
        for label, keys in gate.withholds.items():
            for key in keys:
                reasons.setdefault((key, label), []).append(gate.sentence)

    def struck(key: str) -> dict[str, str]:
        return {label: join_reasons(own) for (name, label), own in reasons.items() if name == key}

    return Struck(
        metrics={key: replace(each, struck=struck(key)) for key, each in measured.metrics.items()},
        held_out=[_strike(each, struck(HELD_OUT)) for each in measured.held_out],
        attacks=[_strike(each, struck(attack_key(each))) for each in measured.attacks],
        searched=[
            replace(each, struck=join_reasons([each.struck, *reasons.get((search_key(each), each.label), [])]))
            for each in searched
        ],
    )


def join_reasons(sentences: Iterable[str]) -> str:
    """Join reasons; one that stands there already is not repeated.

    >>> join_reasons(["", "The base is blank. The judge is blind.", "The judge is blind.", "It is foreign."])
    'The base is blank. The judge is blind. It is foreign.'
    """
    text = ""
    for sentence in sentences:
        text = text if sentence in text else f"{text} {sentence}".strip()
    return text


def _strike(wording: Wording, reasons: Mapping[str, str]) -> Wording:
    """Strike the shares of the models of this wording."""
    return replace(wording, struck={label: reason for label, reason in reasons.items() if label in wording.values})
