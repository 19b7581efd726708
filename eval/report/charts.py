"""The charts of a report as inline SVG, coloured by the page's own style sheet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from eval.report.text import number


ROW = 11  # pixels of one interval in a forest plot
PLANE = 360  # side of the plane in its own units
MARGIN = 58  # left of and below the plane, for its labels
KINDS = {  # part of a layer's name -> what it is called in the legend; the first that fits
    "attn2.to_k": "cross-attention keys",
    "attn2.to_v": "cross-attention values",
    "attn2": "other cross-attention",
    "attn": "self-attention",
    "conv": "convolution",
}


class Mark(NamedTuple):
    """An estimate with its interval, in the colour of a model."""

    label: str
    tint: str  # class that sets the colour
    value: float
    lo: float
    hi: float
    told: str  # the numbers in words
    is_struck: bool = False  # withheld by a gate: drawn hollow


def forest(marks: Sequence[Mark], *, low: float, high: float, ticks: Sequence[float] = (0.0,)) -> Markup:
    """One line per estimate: its interval and its value, on an axis from ``low`` to ``high``; no text inside.

    The horizontal positions are percentages, so the chart fills the width that it is given.
    """
    if not marks:
        return Markup("")

    def place(value: float) -> str:
        return f"{100 * (min(max(value, low), high) - low) / (high - low):.2f}%"

    lines = [f'<line class="axis" x1="{place(tick)}" x2="{place(tick)}" y1="0" y2="100%"/>' for tick in ticks]
    for index, mark in enumerate(marks):
        y = ROW * index + ROW / 2
        hollow = " hollow" if mark.is_struck else ""
        lines.append(
            f'<g class="{mark.tint}{hollow}"><title>{escape(mark.label)}: {escape(mark.told)}</title>'
            f'<line class="range" x1="{place(mark.lo)}" x2="{place(mark.hi)}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot-mark" cx="{place(mark.value)}" cy="{y}" r="3.5"/></g>'
        )
    label = escape("; ".join(f"{mark.label} {mark.told}" for mark in marks))
    # the values stand in this label, the names and colours in the page's legend
    return Markup(
        f'<svg class="forest" width="100%" height="{ROW * len(marks)}" role="img" aria-label="{label}">'
        f"{''.join(lines)}</svg>"
    )


class Point(NamedTuple):
    """A model in the plane of erasure against retention."""

    erasure: Mark
    retention: Mark


def plane(points: Sequence[Point]) -> Markup:
    """Normalised erasure (across, 0 to 1) against retention (up, to 1), with a cross of intervals for every model.

    The axis of the retention starts at the highest quarter that is below all of it.
    """
    side, corner = PLANE, PLANE + MARGIN
    floor = max([0.0, *(cut for cut in (0.25, 0.5, 0.75) if all(each.retention.lo > cut for each in points))])

    def up(value: float) -> float:
        return round(8 + PLANE * (1 - (min(max(value, floor), 1.0) - floor) / (1 - floor)), 1)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = _across(tick)
        parts.append(
            f'<line class="grid" x1="{x}" x2="{x}" y1="8" y2="{side + 8}"/>'
            f'<text x="{x}" y="{side + 26}" text-anchor="middle">{100 * tick:.0f}</text>'
        )
    for tick in range(round(100 * floor), 101, 25 if floor < 0.5 else 10 if floor < 0.75 else 5):
        y = up(tick / 100)
        parts.append(
            f'<line class="grid" x1="{MARGIN}" x2="{corner}" y1="{y}" y2="{y}"/>'
            f'<text x="{MARGIN - 8}" y="{y + 4}" text-anchor="end">{tick}</text>'
        )
    parts.append(
        f'<text class="name" x="{MARGIN + side / 2}" y="{side + 46}" text-anchor="middle">normalised erasure, %</text>'
        f'<text class="name" transform="translate(12 {8 + side / 2}) rotate(-90)" text-anchor="middle">'
        f"retention: the lower of IRA and CRA, %</text>"
    )
    taken: list[tuple[float, float]] = []
    for erasure, retention in points:
        x, y = _across(erasure.value), up(retention.value)
        label_y = _free(x, y - 9, taken)
        anchor = "end" if erasure.value > 0.75 else "start"
        hollow = " hollow" if erasure.is_struck else ""
        withheld = ", withheld" if erasure.is_struck else ""
        parts.append(
            f'<g class="{erasure.tint}{hollow}"><title>{escape(erasure.label)}: erasure {escape(erasure.told)}'
            f"{withheld}, retention {escape(retention.told)}</title>"
            f'<line class="range" x1="{_across(erasure.lo)}" x2="{_across(erasure.hi)}" y1="{y}" y2="{y}"/>'
            f'<line class="range" x1="{x}" x2="{x}" y1="{up(retention.lo)}" y2="{up(retention.hi)}"/>'
            f'<circle class="dot-mark" cx="{x}" cy="{y}" r="5.5"/>'
            f'<text class="label" x="{x - 8 if anchor == "end" else x + 8}" y="{label_y}" text-anchor="{anchor}">'
            f"{escape(erasure.label)}</text></g>"
        )
    told = "; ".join(
        f"{erasure.label}: erasure {erasure.told}, retention {retention.told}" for erasure, retention in points
    )
    return Markup(
        f'<svg class="plane" viewBox="0 0 {corner + 14} {side + 56}" role="img" aria-label="{escape(told)}">'
        f"{''.join(parts)}</svg>"
    )


class Line(NamedTuple):
    """A share at each place of the axis, with its interval, in the colour of a model."""

    label: str
    tint: str  # class that sets the colour
    value: Sequence[float]
    lo: Sequence[float]
    hi: Sequence[float]
    is_struck: bool = False  # withheld by a gate: drawn without its interval, dashed


def curves(lines: Sequence[Line], places: Sequence[float], *, name: str, mark: float) -> Markup:
    """Shares (up, 0 to the highest tenth that holds all of them) against ``places`` (across), with bands of intervals.

    Args:
        lines: one per model; each has as many values as there are places.
        places: two values or more, rising.
        name: of the axis across.
        mark: the place at which the report states the share; a vertical line.
    """
    side, first, last = PLANE, places[0], places[-1]
    top = max(0.1, math.ceil(10 * max(end for line in lines for end in line.hi) - 1e-9) / 10)

    def across(place: float) -> float:
        return round(MARGIN + side * (place - first) / (last - first), 1)

    def up(share: float) -> float:
        return round(8 + side / 2 * (1 - share / top), 1)

    parts = []
    for tick in range(round(10 * top) + 1):
        y = up(tick / 10)
        parts.append(
            f'<line class="grid" x1="{MARGIN}" x2="{MARGIN + side}" y1="{y}" y2="{y}"/>'
            f'<text x="{MARGIN - 8}" y="{y + 4}" text-anchor="end">{10 * tick}</text>'
        )
    floor = up(0)
    for place in (first, mark, last):
        x = across(place)
        parts.append(
            f'<line class="{"axis" if place == mark else "grid"}" x1="{x}" x2="{x}" y1="8" y2="{floor}"/>'
            f'<text x="{x}" y="{floor + 18}" text-anchor="middle">{place:g}</text>'
        )
    parts.append(
        f'<text class="name" x="{MARGIN + side / 2}" y="{floor + 36}" text-anchor="middle">{escape(name)}</text>'
        f'<text class="name" transform="translate(12 {8 + side / 4}) rotate(-90)" text-anchor="middle">images, %</text>'
    )
    for line in lines:
        xs = [across(place) for place in places]
        points = " ".join(f"{x},{up(value)}" for x, value in zip(xs, line.value, strict=True))
        edge = [*zip(xs, line.hi, strict=True), *reversed(list(zip(xs, line.lo, strict=True)))]
        band = " ".join(f"{x},{up(end)}" for x, end in edge)
        body = "" if line.is_struck else f'<polygon class="band" points="{band}"/>'
        dashes = ' stroke-dasharray="3 5"' if line.is_struck else ""
        parts.append(
            f'<g class="{line.tint}"><title>{escape(line.label)}</title>{body}'
            f'<polyline class="curve" points="{points}"{dashes}/></g>'
        )
    told = "; ".join(
        f"{line.label}{' (withheld)' if line.is_struck else ''}: "
        + ", ".join(f"{place:g} {number(value)}" for place, value in zip(places, line.value, strict=True))
        for line in lines
    )
    return Markup(
        f'<svg class="plane" viewBox="0 0 {MARGIN + side + 14} {floor + 44}" role="img" aria-label="{escape(told)}">'
        f"{''.join(parts)}</svg>"
    )


def layer_bars(layers: Mapping[str, float | None], *, top: float) -> Markup:
    """One bar per layer in the order of the model, as high as the root of its relative change.

    The root keeps small changes visible beside large ones; ``top`` is the change that fills the height.
    """
    names = list(layers)
    bars = []
    for index, name in enumerate(names):
        change = layers[name]
        if change == 0:
            continue
        height = 100.0 if change is None else 100 * min(1.0, (change / top) ** 0.5)
        told = "not in the base" if change is None else number(change)
        bars.append(
            f'<rect class="{layer_kind(name).replace(" ", "-")}" x="{100 * index / len(names):.2f}%" '
            f'y="{100 - height:.1f}%" width="{90 / len(names):.2f}%" height="{height:.1f}%">'
            f"<title>{escape(name)}: {told}</title></rect>"
        )
    changed = sum(value != 0 for value in layers.values())
    label = f"{changed} of {len(names)} layers changed"
    return Markup(f'<svg class="layers" width="100%" height="64" role="img" aria-label="{label}">{"".join(bars)}</svg>')


def layer_kind(name: str) -> str:
    """What kind of layer a name of a UNet or a text encoder belongs to.

    >>> layer_kind("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
    'cross-attention keys'
    """
    return next((kind for part, kind in KINDS.items() if part in name), "other layers")


def estimate_mark(label: str, tint: str, estimate: dict[str, Any], *, told: str, is_struck: bool = False) -> Mark:
    """An estimate of a report as a mark; one without an interval has the width zero."""
    value = estimate["value"]
    lo, hi = (value if estimate.get(end) is None else estimate[end] for end in ("lo", "hi"))
    return Mark(label, tint, value, lo, hi, told, is_struck)


def _across(value: float) -> float:
    return round(MARGIN + PLANE * min(max(value, 0.0), 1.0), 1)


def _free(x: float, y: float, taken: list[tuple[float, float]]) -> float:
    """A height for a label near ``y`` where no other one is; it is added to those taken."""
    while any(abs(x - other_x) < 130 and abs(y - other_y) < 14 for other_x, other_y in taken):
        y += 15
    taken.append((x, y))
    return y
