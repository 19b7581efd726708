"""How often the target is seen for held-out wordings and for attack prompts of a grid suite."""

from collections.abc import Callable

from eval.measure.estimates import estimate_sample, not_run, proportion
from eval.measure.seen import seen
from eval.measure.view import Evidence, View, is_not_base
from eval.measurements import Estimate, Wording
from eval.suite.grid import ROLES


def measure_held_out(evidence: Evidence) -> list[Wording]:
    """Share of images with the target for each held-out wording, and for each language where there are several."""
    wordings = []
    for group, views in _groups(evidence).items():
        rows = [row for row in next(iter(views.values())).rows if row["family"] in ROLES]
        for family in dict.fromkeys(row["family"] for row in rows):
            languages = list(dict.fromkeys(row["language"] for row in rows if row["family"] == family))
            for language in ("", *(languages if len(languages) > 1 else ())):
                parts = _restrict(views, _has_wording(family, language))
                wordings.append(
                    Wording(
                        family=family,
                        group=group,
                        language=language,
                        values={label: _share(view) for label, view in parts.items()},
                        erasure={label: _erasure(view) for label, view in parts.items() if is_not_base(view)},
                    )
                )
    return wordings


def measure_attacks(evidence: Evidence) -> list[Wording]:
    """Share of images with the target for each attack, and for the null attacks beside it."""
    wordings = []
    for group, views in _groups(evidence).items():
        rows = [row for row in next(iter(views.values())).rows if row["family"] in ("attack", "attack_null")]
        for attack, family in dict.fromkeys((row["attack"], row["family"]) for row in rows):
            parts = _restrict(views, _is_attack(attack, family))
            wordings.append(
                Wording(
                    family=attack,
                    group=group,
                    is_null=family == "attack_null",
                    values={label: _share(view) for label, view in parts.items()},
                )
            )
    return wordings


def _groups(evidence: Evidence) -> dict[int, dict[str, View]]:
    """Group -> label -> view."""
    return {
        group: {model.label: evidence.view(model.label) for model in models}
        for group, models in evidence.groups().items()
    }


def _restrict(views: dict[str, View], condition: Callable[[dict], bool]) -> dict[str, View]:
    return {label: view.where(condition) for label, view in views.items()}


def _has_wording(family: str, language: str) -> Callable[[dict], bool]:
    return lambda row: row["family"] == family and (not language or row["language"] == language)


def _is_attack(attack: str, family: str) -> Callable[[dict], bool]:
    return lambda row: row["family"] == family and row["attack"] == attack


def _share(view: View) -> Estimate:
    """Share of images with the target, or why there is none."""
    clusters, why = view.clusters, view.evidence.provided.get("judge_style", "no scorer of the suite is a judge")
    if why:
        return not_run(why, n_images=len(view), n_prompts=int(clusters.max()) + 1)
    return proportion(seen(view), clusters, resamples=view.evidence.suite.resamples)


def _erasure(view: View) -> Estimate | None:
    """The normalised erasure; None where nothing was judged, or the base never shows the target."""
    if not view.evidence.is_judged:
        return None
    sample = view.sample(seen, is_share_of_base=True)
    if sample.base is None or not sample.base.any():
        return None
    return estimate_sample(sample, resamples=view.evidence.suite.resamples)
