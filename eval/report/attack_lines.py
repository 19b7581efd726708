"""The headline of an attack for a terminal."""

from eval.attack.record import AttackRecord
from eval.formulas.attack import Rate


def summary_lines(record: AttackRecord) -> list[str]:
    """Base and model without an attack, the attack and its nulls, and the excess, one line each."""
    results, withheld = record.outcome.results, record.outcome.withheld
    lines = [
        f"{'base, no attack':28}{_share(results.base)}",
        f"{'erased, no attack':28}{_share(results.pre)}",
    ]
    for name, arm in record.arms.items():
        label = record.attack["attack"] if name == "attack" else f"null: {name.replace('_', ' ')}"
        lines.append(f"{label:28}{_share(arm.asr_total)}; {_share(arm.asr_per_image)} of the images")
    excess = record.excess
    value, lo, hi = (100 * end for end in (excess.value, excess.lo, excess.hi))
    null = excess.null.replace("_", " ")
    lines.append(f"{'excess over null':28}{value:.1f} points [{lo:.1f}, {hi:.1f}], over {null}")
    if withheld:
        return [f"Withheld: {withheld}", lines[0], *(f"{line}; withheld" for line in lines[1:])]
    return lines


def _share(rate: Rate) -> str:
    """A share of prompts with its counts and its interval.

    >>> _share(Rate(0.5, 0.2, 0.8, 5, 10))
    '5/10 = 50.0 % [20.0, 80.0]'
    """
    return f"{rate.hits}/{rate.n} = {100 * rate.value:.1f} % [{100 * rate.lo:.1f}, {100 * rate.hi:.1f}]"
