"""Which scorer says what an image shows; an attack needs that one only."""

from collections.abc import Iterable

from eval.score.scorers_of import available_scorers, scorer_module


ANSWER = "judge_style"  # the column that makes a scorer a judge


def find_judge(scorers: Iterable[str]) -> str:
    """The judge among some scorers; empty if there is none. Names of scorers that are gone are passed over.

    >>> find_judge(["clip", "judge"]), find_judge(["clip", "gone"])
    ('judge', '')
    """
    return next((name for name in scorers if name in available_scorers() and ANSWER in scorer_module(name).COLUMNS), "")
