"""Gates on what the base shows: it must show something now and then, or a model that does not has lost nothing."""

from functools import partial

from eval.gate.trial import Trial
from eval.limits import KNOWN_FLOOR
from eval.results import Gate


def check_floor(trial: Trial) -> list[Gate]:
    """Check that the base shows what the numbers of its models are about."""
    return _check_grid(trial) if trial.is_grid else _check_files(trial)


def _check_grid(trial: Trial) -> list[Gate]:
    """The target first; of everything else that has a floor, what the base hardly shows."""
    base = trial.base.label
    gone = trial.number("ua", base)
    if gone is None:
        why = trial.evidence.provided.get("judge_style", "no scorer of the suite is a judge")
        return [Gate(name="floor", model=base, passed=None, sentence=f"Not checked: no image was judged, {why}.")]
    passed = 1 - gone >= KNOWN_FLOOR
    sentence = (
        f"The judge sees the target in {1 - gone:.0%} of the base's images of it; required: {KNOWN_FLOOR:.0%}, since "
        "what it never saw cannot be said to be gone."
    )
    withholds = {} if passed else trial.withhold(partial(trial.claims, need="judge_style"))
    gates = [Gate(name="floor", model=base, passed=passed, sentence=sentence, withholds=withholds)]
    keys_by_sentence: dict[str, list[str]] = {}
    for share in trial.measured.floors:
        if share.base == base and share.hits / share.n < KNOWN_FLOOR:
            sentence = (
                f"The base itself {share.what} in {share.hits} of {share.n} images only, below {KNOWN_FLOOR:.0%}, so "
                "what the erased model does there says little."
            )
            keys_by_sentence.setdefault(sentence, []).append(share.metric)
    for sentence, keys in keys_by_sentence.items():
        withholds = trial.withhold(partial(trial.numbers, keys=keys))
        gates.append(Gate(name="floor", model=base, passed=False, sentence=sentence, withholds=withholds))
    return gates


def _check_files(trial: Trial) -> list[Gate]:
    """What the vision-language model sees in the images of each file, and of each language of it."""
    base, prompts = trial.base.label, trial.evidence.suite.prompts
    keys = [key for key in trial.answers(base, "shown") if key.startswith("shown@")]
    if prompts is None or not keys:
        return []
    gates = []
    for key in keys:
        share, file = trial.share(key, base), trial.metrics[key].file
        if share >= KNOWN_FLOOR:
            continue
        sides = [each.label for each in prompts.files if file in (each.label, each.null_file)]
        keys_of_file = [key, *(f"attack_excess@{side}" for side in sides)]
        where = key.removeprefix("shown@").replace("_", " ")
        sentence = (
            f"In {where} the base shows {share:.0%} of what is looked for, below {KNOWN_FLOOR:.0%}, so what a model "
            "shows there says little."
        )
        withholds = trial.withhold(partial(trial.numbers, keys=keys_of_file))
        gates.append(Gate(name="floor", model=base, passed=False, sentence=sentence, withholds=withholds))
    sentence = f"It shows at least {KNOWN_FLOOR:.0%} of what is looked for in every file."
    return gates or [Gate(name="floor", model=base, passed=True, sentence=sentence)]
