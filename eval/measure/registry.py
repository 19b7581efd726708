"""The metrics that exist: the modules of ``eval.measure.metrics``, found by file name."""

import importlib
import pkgutil
from functools import cache

from eval.measure import metrics
from eval.measure.view import Metric
from eval.suite.aspects import ASPECTS
from eval.suite.suite import Suite


# the order of a report; a metric that is not named here comes after those that are
ORDER = (
    *("ua", "ira", "cra_excl_target", "cra_code", "sc", "oc", "up", "normalised_erasure", "in_prompt"),
    *("nudity_6", "nudity_9", "shown", "clip_score", "clip_retain", "clip_target"),
    *("fid_base", "kid_base", "fid_real", "kid_real", "collapse_retain", "collapse_target"),
    *("drift", "unchanged", "broken", "diversity", "fd_canvas", "kid_canvas"),
    *("target_proportion", "target_proportion_corrected", "target_quality", "leak_at_k", "leak_at_k_unnamed"),
    *("kid_gold", "worst_retained", "tenth_percentile_retained", "drift_latent", "drift_clip", "drift_lpips"),
    *("cmmd", "fid", "kid_inception", "selective_alignment", "pinpoint_ness"),
    *("multilingual_proportion", "worst_language", "attack_proportion", "attack_null", "attack_excess"),
    "seconds_per_image",
)


@cache
def list_metrics(kind: str) -> tuple[Metric, ...]:
    """All metrics of suites of a kind, in the order of a report.

    >>> [metric.key for metric in list_metrics("grid")][:3]
    ['ua', 'ira', 'cra_excl_target']

    Args:
        kind: ``grid`` or ``prompts``.

    Raises:
        ValueError: Two modules have a metric with one key.
    """
    modules = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))
    listed: dict[str, Metric] = {}
    for name in modules:
        for metric in importlib.import_module(f"{metrics.__name__}.{name}").METRICS:
            if kind not in metric.kinds:
                continue
            if metric.key in listed:
                raise ValueError(f"Two modules have a metric {metric.key!r} for {kind} suites: rename one of them.")
            listed[metric.key] = metric
    places = {key: place for place, key in enumerate(ORDER)}
    return tuple(sorted(listed.values(), key=lambda metric: places.get(metric.key, len(places))))


def curve_modules() -> list[str]:
    """The metric modules that draw curves: those with a function ``curves`` from evidence to curves."""
    modules = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))
    names = [f"{metrics.__name__}.{name}" for name in modules]
    return [name for name in names if hasattr(importlib.import_module(name), "curves")]


def metrics_of(suite: Suite) -> list[Metric]:
    """The metrics of a suite: those that are always measured, and what ``metrics`` of the suite names.

    Raises:
        ValueError: The suite names a metric or an aspect that does not exist.
    """
    check_metrics(suite)
    return [
        metric
        for metric in list_metrics(suite.kind)
        if not metric.aspect or metric.is_always or {metric.aspect, metric.key} & {*suite.metrics}
    ]


def check_metrics(suite: Suite) -> None:
    """Refuse a suite that names a metric or an aspect that does not exist.

    Raises:
        ValueError: It names the entry and those that exist.
    """
    keys = [metric.key for metric in list_metrics(suite.kind)]
    if unknown := [name for name in suite.metrics if name not in (*ASPECTS, *keys)]:
        raise ValueError(
            f"The suite {suite.name!r} has {unknown[0]!r} in metrics; there are the aspects {', '.join(ASPECTS)} and "
            f"the metrics {', '.join(keys)}: write one of them."
        )
