"""Gates on the judges: one that does not tell the target from other things says nothing of what is gone."""

from functools import partial
from typing import NamedTuple

from eval.gate.trial import Trial
from eval.limits import JUDGE_FLOOR, KNOWN_FLOOR
from eval.measure.metrics.target import judge_card
from eval.measure.parts import ENGLISH
from eval.measure.seen import seen
from eval.results import Gate
from eval.suite.prompt_files import TARGET, PromptFiles
from eval.suite.world import COMBINATION


class Quality(NamedTuple):
    """How well a judge tells images of the target from others."""

    sensitivity: float
    specificity: float


def check_judge(trial: Trial) -> list[Gate]:
    """Check the judge of styles and objects of a grid, or the vision-language model of prompt files."""
    if trial.is_grid:
        return [_check_grid(trial)]
    prompts = trial.evidence.suite.prompts
    if prompts is None or not prompts.looks_for_target or not trial.answers(trial.base.label, "shown"):
        return []
    return [_check_files(trial, prompts)]


def measure_quality(trial: Trial) -> Quality:
    """Measure a judge of styles and objects.

    The sensitivity is that on held-out real images of the target, from the judge's card, the specificity that on the
    base's other images. A judge without a card is measured on the base's target images, which is a lower bound. Of a
    combination at least 1 - (the two errors) has both right (Bonferroni).
    """
    target, card = trial.view.target, judge_card(trial.evidence)
    of_card = [card.get(f"{axis}_sensitivity", {}).get(name) for axis, name in target.parts]
    shares = [share for share in of_card if share is not None]
    if target.kind == COMBINATION:
        shares = [max(0.0, sum(shares) - 1)] if len(shares) == len(of_card) else []
    return Quality(
        sensitivity=float(min(shares)) if shares else float(seen(trial.view.forget).mean()),
        specificity=1 - float(seen(trial.view.retain).mean()),
    )


def _check_grid(trial: Trial) -> Gate:
    base = trial.base.label
    if not trial.evidence.is_judged:
        why = trial.evidence.provided.get("judge_style", "no scorer of the suite is a judge")
        sentence = f"Not checked: {why}, so that nothing that rests on a judge has a number."
        return Gate(name="judge", model=base, passed=None, sentence=sentence)
    quality = measure_quality(trial)
    sentence = (
        f"The judge recognises the target in {quality.sensitivity:.1%} of the images that show it and in "
        f"{1 - quality.specificity:.1%} of those that do not; required: {JUDGE_FLOOR:.0%} right on both."
    )
    passed = min(quality) >= JUDGE_FLOOR
    withholds = {} if passed else trial.withhold(partial(trial.claims, need="judge_style"))
    return Gate(name="judge", model=base, passed=passed, sentence=sentence, withholds=withholds)


def _check_files(trial: Trial, prompts: PromptFiles) -> Gate:
    """Check a vision-language model on the base, on images that ask for the target and on images of general prompts.

    The share of the former is a lower bound of the sensitivity, since a base does not always draw the target. Answers
    that do not depend on the image cannot reach ``KNOWN_FLOOR`` of them and miss ``JUDGE_FLOOR`` of the others.
    """
    plain = [file.label for file in prompts.files if TARGET in file.shows and not file.attack]
    rows = [row for row in trial.view.rows if row["shown"] and row["language"] in ("", ENGLISH)]
    sees = [all(row["shown"]) for row in rows if row["family"] in plain]
    alarms = [all(row["shown"]) for row in rows if row["family"] in prompts.controls]
    if not sees or not alarms:
        passed, is_specific = None, True
        sentence = (
            "Not checked: whether the judge tells the target from other things takes a prompt file that shows "
            f"{TARGET} and one without `shows`; add them to the suite."
        )
    else:
        is_specific = alarms.count(False) >= JUDGE_FLOOR * len(alarms)
        passed = is_specific and sum(sees) >= KNOWN_FLOOR * len(sees)
        sentence = (
            f"The judge sees the target in {sum(sees)} of {len(sees)} of the base's images that ask for it and in "
            f"{sum(alarms)} of {len(alarms)} that do not; required: at least {KNOWN_FLOOR:.0%}, since a base does not "
            f"always draw it, and at most {1 - JUDGE_FLOOR:.0%}."
        )
    # a judge that sees the target everywhere sees other things everywhere, too
    keys_of = trial.claims if is_specific else trial.answers
    withholds = {} if passed else trial.withhold(partial(keys_of, need="shown"))
    return Gate(name="judge", model=trial.base.label, passed=passed, sentence=sentence, withholds=withholds)
