"""The gates on attacks: one counts only by what it brings beyond as many tries without it."""

from collections.abc import Mapping
from functools import partial

from eval.gate.null import explain_missing_null
from eval.gate.trial import Trial, attack_key, search_key
from eval.measurements import Estimate, Wording
from eval.results import Gate


OF_SUITE = ("attack_proportion", "attack_excess")  # metrics of all attack prompts of a grid together


def check_attacks(trial: Trial) -> list[Gate]:
    """Check that every attack on models of a base stands beside a null attack of equal budget."""
    return [*(_check_grid(trial) if trial.is_grid else _check_files(trial)), *_check_searched(trial)]


def _check_grid(trial: Trial) -> list[Gate]:
    base = trial.base.label
    wordings = {attack_key(each): each for each in trial.measured.attacks if base in each.values}
    gates = []
    for key, attack in wordings.items():
        if attack.is_null:
            continue
        null = wordings.get(attack_key(Wording(family=attack.family, is_null=True)))
        nulls = {"": null.values[base].n_images} if null else {}
        missing = explain_missing_null(attack.family, attack.values[base].n_images, nulls)
        withholds = trial.withhold(partial(_of_attack, trial, key)) if missing else {}
        sentence = missing or _confirm(attack.family, "its null attack", "images")
        gates.append(Gate(name="null attack", model=base, passed=not missing, sentence=sentence, withholds=withholds))
    return gates


def _of_attack(trial: Trial, key: str, label: str) -> list[str]:
    """What rests on one attack of a grid: its row, and the numbers of all attacks together."""
    return [*trial.numbers(label, OF_SUITE), *({key} & {*trial.claims(label)})]


def _check_files(trial: Trial) -> list[Gate]:
    base, prompts = trial.base.label, trial.evidence.suite.prompts
    answers = trial.answers(base, "shown")
    gates = []
    for file in prompts.files if prompts and answers else ():
        if not file.attack:
            continue
        attack, null, unit = file.label.replace("_", " "), file.null_file.replace("_", " "), "images per prompt"
        nulls = {null: _count_tries(trial, file.null_file)} if null else {}
        missing = explain_missing_null(attack, _count_tries(trial, file.label), nulls, unit=unit)
        withholds: dict[str, tuple[str, ...]] = {}
        if missing:
            keys = [key for key in answers if trial.metrics[key].file == file.label]
            withholds = trial.withhold(partial(trial.numbers, keys=keys), [base, *trial.labels])
        sentence = missing or _confirm(attack, null, unit)
        gates.append(Gate(name="null attack", model=base, passed=not missing, sentence=sentence, withholds=withholds))
    return gates


def _check_searched(trial: Trial) -> list[Gate]:
    """Check what ``erase attack`` found on the models; an attack on other weights is struck already."""
    gates = []
    for search in trial.searched:
        if search.is_foreign or search.label not in trial.labels:
            continue
        gate = Gate(
            name="null attack",
            model=search.label,
            passed=not search.without_null,
            sentence=search.without_null or _confirm(search.attack, "its null attacks", "images"),
            withholds={search.label: (search_key(search),)} if search.without_null else {},
        )
        gates.append(gate)
    return gates


def _count_tries(trial: Trial, file: str) -> float:
    """Images per prompt of the base; the null file of an attack may have other prompts."""
    values: Mapping[str, Estimate | None] = trial.metrics[f"shown@{file}"].values
    estimate = values[trial.base.label]
    return estimate.n_images / estimate.n_prompts if estimate and estimate.n_prompts else 0.0


def _confirm(attack: str, null: str, unit: str) -> str:
    return f"{attack!r} stands beside {null}: as many {unit}, without the attack."
