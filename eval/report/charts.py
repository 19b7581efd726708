"""The charts of a report as inline SVG, coloured by the page's own style sheet."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from eval.report.text import number


ROW = 11  # pixels of one interval in a forest plot
PLANE = 360  # side of the plane in its own units
MARGIN = 58  # left of and below the plane, for its labels
TOP = 8  # above the plane
LABEL = 14  # height of a model's name in the plane
KINDS = {  # part of a layer's name -> what it is called in the legend; the first that fits
    "attn2.to_k": "cross-attention keys",
    "attn2.to_v": "cross-attention values",
    "attn2": "other cross-attention",
    "attn": "self-attention",
    "conv": "convolution",
}
OTHER = "other layers"


class Mark(NamedTuple):
    """An estimate with its interval, in the colour of a model."""

    label: str
    tint: str  # class that sets the colour
    value: float
    lo: float
    hi: float
    text: str  # the numbers in words
    is_struck: bool = False  # withheld by a gate: drawn hollow

    @property
    def classes(self) -> str:
        """The classes of its group in the chart."""
        return f"{self.tint} hollow" if self.is_struck else self.tint


class Point(NamedTuple):
    """A model in the plane of erasure against retention."""

    erasure: Mark
    retention: Mark

    @property
    def text(self) -> str:
        """Both numbers in words."""
        withheld = ", withheld" if self.erasure.is_struck else ""
        return f"{self.erasure.label}: erasure {self.erasure.text}{withheld}, retention {self.retention.text}"


class Line(NamedTuple):
    """A share at each place of the axis, with its interval, in the colour of a model."""

    label: str
    tint: str  # class that sets the colour
    value: Sequence[float]
    lo: Sequence[float]
    hi: Sequence[float]
    is_struck: bool = False  # withheld by a gate: drawn without its interval, dashed


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
        lines.append(
            f'<g class="{mark.classes}"><title>{escape(mark.label)}: {escape(mark.text)}</title>'
            f'<line class="range" x1="{place(mark.lo)}" x2="{place(mark.hi)}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot-mark" cx="{place(mark.value)}" cy="{y}" r="3.5"/></g>'
        )
    label = escape("; ".join(f"{mark.label} {mark.text}" for mark in marks))
    # the values stand in this label, the names and colours in the page's legend
    return Markup(
        f'<svg class="forest" width="100%" height="{ROW * len(marks)}" role="img" aria-label="{label}">'
        f"{''.join(lines)}</svg>"
    )


def plane(points: Sequence[Point], *, retention: str) -> Markup:
    """Normalised erasure (across, 0 to 1) against retention (up, to 1), with a cross of intervals for every model.

    The axis of the retention starts at the highest quarter that is below all of it.

    Args:
        points: One per model.
        retention: What the axis of the retention is called.
    """
    floor = max([0.0, *(cut for cut in (0.25, 0.5, 0.75) if all(each.retention.lo > cut for each in points))])

    def up(value: float) -> float:
        return round(TOP + PLANE * (1 - (min(max(value, floor), 1.0) - floor) / (1 - floor)), 1)

    step = 25 if floor < 0.5 else 10 if floor < 0.75 else 5
    parts = [_vertical(_across(tick), PLANE + TOP, f"{100 * tick:.0f}") for tick in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_horizontal(up(tick / 100), str(tick)) for tick in range(round(100 * floor), 101, step)]
    parts.append(_names("normalised erasure, %", f"retention: {retention}, %", height=PLANE))
    taken: list[tuple[float, float]] = []
    parts += [_cross(point, up, taken) for point in points]
    return _frame(parts, "; ".join(point.text for point in points), height=PLANE)


def curves(lines: Sequence[Line], places: Sequence[float], *, name: str, mark: float) -> Markup:
    """Shares (up, 0 to the highest tenth that holds all of them) against ``places`` (across), with bands of intervals.

    Args:
        lines: One per model; each has as many values as there are places.
        places: Two values or more, rising.
        name: Of the axis across.
        mark: The place at which the report states the share; a vertical line.
    """
    height, first, last = PLANE // 2, places[0], places[-1]
    top = max(0.1, math.ceil(10 * max(end for line in lines for end in line.hi) - 1e-9) / 10)

    def across(place: float) -> float:
        return round(MARGIN + PLANE * (place - first) / (last - first), 1)

    def up(share: float) -> float:
        return round(TOP + height * (1 - share / top), 1)

    parts = [_horizontal(up(tick / 10), str(10 * tick)) for tick in range(round(10 * top) + 1)]
    for place in (first, mark, last):
        parts.append(_vertical(across(place), up(0), f"{place:g}", css="axis" if place == mark else "grid"))
    parts.append(_names(escape(name), "images, %", height=height))
    xs = [across(place) for place in places]
    parts += [_curve(line, xs, up) for line in lines]
    text = "; ".join(
        f"{line.label}{' (withheld)' if line.is_struck else ''}: "
        + ", ".join(f"{place:g} {number(value)}" for place, value in zip(places, line.value, strict=True))
        for line in lines
    )
    return _frame(parts, text, height=height)


def layer_bars(layers: Mapping[str, float | None], *, top: float) -> Markup:
    """One bar per layer in the order of the model, as high as the root of its relative change.

    The root keeps small changes visible beside large ones; ``top`` is the change that fills the height.
    """
    bars = []
    for index, (name, change) in enumerate(layers.items()):
        if change == 0:
            continue
        height = 100.0 if change is None else 100 * min(1.0, (change / top) ** 0.5)
        text = "not in the base" if change is None else number(change)
        bars.append(
            f'<rect class="{layer_kind(name).replace(" ", "-")}" x="{100 * index / len(layers):.2f}%" '
            f'y="{100 - height:.1f}%" width="{90 / len(layers):.2f}%" height="{height:.1f}%">'
            f"<title>{escape(name)}: {text}</title></rect>"
        )
    label = f"{len(bars)} of {len(layers)} layers changed"
    return Markup(f'<svg class="layers" width="100%" height="64" role="img" aria-label="{label}">{"".join(bars)}</svg>')


def layer_kind(name: str) -> str:
    """What kind of layer a name of a UNet or a text encoder belongs to.

    >>> layer_kind("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
    'cross-attention keys'
    """
    return next((kind for part, kind in KINDS.items() if part in name), OTHER)


def _across(value: float) -> float:
    return round(MARGIN + PLANE * min(max(value, 0.0), 1.0), 1)


def _vertical(x: float, bottom: float, text: str, *, css: str = "grid") -> str:
    """A line from top to bottom with its number below."""
    return (
        f'<line class="{css}" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>'
        f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{text}</text>'
    )


def _horizontal(y: float, text: str) -> str:
    """A line across with its number on the left."""
    return (
        f'<line class="grid" x1="{MARGIN}" x2="{MARGIN + PLANE}" y1="{y}" y2="{y}"/>'
        f'<text x="{MARGIN - 8}" y="{y + 4}" text-anchor="end">{text}</text>'
    )


def _names(across: str, up: str, *, height: float) -> str:
    """What both axes are called."""
    return (
        f'<text class="name" x="{MARGIN + PLANE / 2}" y="{height + TOP + 38}" text-anchor="middle">{across}</text>'
        f'<text class="name" transform="translate(12 {TOP + height / 2}) rotate(-90)" text-anchor="middle">{up}</text>'
    )


def _frame(parts: Sequence[str], text: str, *, height: float) -> Markup:
    return Markup(
        f'<svg class="plane" viewBox="0 0 {MARGIN + PLANE + 14} {height + 56}" role="img" aria-label="{escape(text)}">'
        f"{''.join(parts)}</svg>"
    )


def _cross(point: Point, up: Callable[[float], float], taken: list[tuple[float, float]]) -> str:
    """A model in the plane with its intervals and its name; the place of the name is added to those taken."""
    erasure, retention = point
    x, y = _across(erasure.value), up(retention.value)
    is_right = erasure.value > 0.5
    name_y = _free(x, max(y - 9, TOP + LABEL), taken)
    return (
        f'<g class="{erasure.classes}"><title>{escape(point.text)}</title>'
        f'<line class="range" x1="{_across(erasure.lo)}" x2="{_across(erasure.hi)}" y1="{y}" y2="{y}"/>'
        f'<line class="range" x1="{x}" x2="{x}" y1="{up(retention.lo)}" y2="{up(retention.hi)}"/>'
        f'<circle class="dot-mark" cx="{x}" cy="{y}" r="5.5"/>'
        f'<text class="label" x="{x - 9 if is_right else x + 9}" y="{name_y}" '
        f'text-anchor="{"end" if is_right else "start"}">{escape(erasure.label)}</text></g>'
    )


def _free(x: float, y: float, taken: list[tuple[float, float]]) -> float:
    """A height for a name near ``y`` where no other one is; it is added to those taken."""
    while any(abs(x - other_x) < 130 and abs(y - other_y) < LABEL for other_x, other_y in taken):
        y += LABEL + 1
    taken.append((x, y))
    return y


def _curve(line: Line, xs: Sequence[float], up: Callable[[float], float]) -> str:
    """A model's shares with the band of their intervals."""
    points = " ".join(f"{x},{up(value)}" for x, value in zip(xs, line.value, strict=True))
    edge = [*zip(xs, line.hi, strict=True), *reversed(list(zip(xs, line.lo, strict=True)))]
    band = " ".join(f"{x},{up(end)}" for x, end in edge)
    body = "" if line.is_struck else f'<polygon class="band" points="{band}"/>'
    dashes = ' stroke-dasharray="3 5"' if line.is_struck else ""
    return (
        f'<g class="{line.tint}"><title>{escape(line.label)}</title>{body}'
        f'<polyline class="curve" points="{points}"{dashes}/></g>'
    )
