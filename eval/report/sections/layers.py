"""Which layers of the weights changed, and how much."""

from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from eval.report import charts
from eval.report.templating import part
from eval.results import Results


PLACE = 190


class Component(NamedTuple):
    """The layers of one component of a model."""

    name: str
    chart: Markup
    changed: int
    of: int
    most: list[tuple[str, float]]  # the layers that changed most


def applies(results: Results) -> bool:
    """Whether the layers of a model were compared with its base."""
    return bool(results.layers)


def html(results: Results) -> Markup:
    """The bars of every component, on one scale for all models."""
    changes = [
        change
        for components in results.layers.values()
        for layers in components.values()
        for change in layers.values()
        if change
    ]
    top = max(changes, default=1.0)
    models = {
        label: [_component(name, layers, top=top) for name, layers in components.items()]
        for label, components in results.layers.items()
    }
    return part("layers", results, models=models, kinds=[*charts.KINDS.values(), charts.OTHER])


def markdown(results: Results) -> str:
    """Nothing: there are too many."""
    return ""


def _component(name: str, layers: Mapping[str, float | None], *, top: float) -> Component:
    most = sorted(((layer, change) for layer, change in layers.items() if change), key=lambda item: -item[1])[:3]
    changed = sum(change != 0 for change in layers.values())
    return Component(name, charts.layer_bars(layers, top=top), changed, len(layers), most)
