"""Gates on broken images: those of a base, and how many more a model has; a broken image shows no target."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from eval.gate.trial import Trial
from eval.limits import BROKEN_MARGIN
from eval.results import Gate, ModelInfo


PARTS = {"target prompts": "collapse_target", "other prompts": "collapse_retain"}  # of a grid -> metric


def check_base(trial: Trial) -> list[Gate]:
    """Check that the base itself draws sound images; else nothing is known of what its models no longer show."""
    base = trial.base.label
    if trial.is_grid:
        shares = {part: trial.share(key, base) for part, key in PARTS.items()}
        text = "; ".join(f"{part} {share:.0%}" for part, share in shares.items())
        passed = max(shares.values()) <= BROKEN_MARGIN
        sentence = f"{_kinds(trial)} images of the base: {text}; allowed: {BROKEN_MARGIN:.0%}.{_count(trial, base)}"
        withholds = {} if passed else trial.withhold(trial.claims)
        return [Gate(name="base", model=base, passed=passed, sentence=sentence, withholds=withholds)]
    gates = []
    for file in _files(trial):
        share = trial.share(_key(file), base)
        passed = share <= BROKEN_MARGIN
        sentence = (
            f"{share:.1%} of the base's images{_of(file)} are broken; allowed: {BROKEN_MARGIN:.0%}, such as those that "
            "a safety checker blackens."
        )
        withholds = {} if passed else trial.withhold(partial(trial.claims_of_file, file=file))
        gates.append(Gate(name="base", model=base, passed=passed, sentence=sentence, withholds=withholds))
    return _shorten(gates)


def check_validity(trial: Trial, model: ModelInfo) -> list[Gate]:
    """Check that a model breaks few images more than its base."""
    own, base = model.label, trial.base.label
    if trial.is_grid:
        shares = {part: (trial.share(key, own), trial.share(key, base)) for part, key in PARTS.items()}
        text = "; ".join(f"{part} {ours:.0%} (base {theirs:.0%})" for part, (ours, theirs) in shares.items())
        passed = all(ours - theirs <= BROKEN_MARGIN for ours, theirs in shares.values())
        sentence = f"{_kinds(trial)} images: {text}; allowed: base + {BROKEN_MARGIN:.0%}.{_count(trial, own)}"
        withholds = {} if passed else trial.withhold(trial.claims, [own])
        return [Gate(name="validity", model=own, passed=passed, sentence=sentence, withholds=withholds)]
    gates = []
    for file in _files(trial):
        ours, theirs = (trial.share(_key(file), label) for label in (own, base))
        passed = ours - theirs <= BROKEN_MARGIN
        sentence = (
            f"{ours:.1%} of the images{_of(file)} are broken, {theirs:.1%} of the base's; allowed: base + "
            f"{BROKEN_MARGIN:.0%}."
        )
        withholds = {} if passed else trial.withhold(partial(trial.claims_of_file, file=file), [own])
        gates.append(Gate(name="validity", model=own, passed=passed, sentence=sentence, withholds=withholds))
    return _shorten(gates)


def _shorten(gates: Sequence[Gate]) -> list[Gate]:
    """Keep the gates of the files that failed; if none did, the one of all files."""
    return [gate for gate in gates if not gate.passed] or list(gates[:1])


def _files(trial: Trial) -> list[str]:
    """The prompt files whose broken images are counted, after the empty name for all of them."""
    return [result.file for key, result in trial.metrics.items() if key.partition("@")[0] == "broken"]


def _key(file: str) -> str:
    return f"broken@{file}" if file else "broken"


def _of(file: str) -> str:
    return f" of {file.replace('_', ' ')}" if file else ""


def _kinds(trial: Trial) -> str:
    """The kinds of broken images of a grid; without a judge nobody says that an image shows nothing."""
    return f"Blank, saturated, flat{', duplicate or unrecognisable' if trial.evidence.is_judged else ' or duplicate'}"


def _count(trial: Trial, label: str) -> str:
    """How many images of a grid are broken in which way, as a sentence; empty if none is."""
    rows = trial.evidence.view(label).grid.rows
    kinds = Counter(row["broken"] for row in rows if row["broken"])
    text = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f" Broken: {text}." if text else ""
