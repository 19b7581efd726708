"""The charts: axes that hold what they show, and names that can be read."""

import re
from itertools import pairwise

from eval.report import charts


def mark(name: str, value: float, width: float = 0.05) -> charts.Mark:
    return charts.Mark(name, "tint0", value, value - width, value + width, f"{value:.0%}")


def test_the_axis_of_the_plane_holds_every_interval() -> None:
    def draw(*points: tuple[str, float]) -> str:
        pairs = [charts.Point(mark(name, 0.9), mark(name, kept)) for name, kept in points]
        return charts.plane(pairs, retention="the lowest of IRA, CRA")

    high, low = draw(("a", 0.9)), draw(("a", 0.9), ("<b>", 0.1))
    assert ">75</text>" in high
    assert ">80</text>" in high
    assert ">0</text>" in low
    assert "retention: the lowest of IRA, CRA, %" in high
    assert "&lt;b&gt;" in low
    assert "<b>" not in low


def test_names_in_the_plane_lie_within_it_and_apart() -> None:
    points = [charts.Point(mark(name, 1.0), mark(name, 1.0)) for name in "abc"]
    places = re.findall(r'class="label" x="[\d.]+" y="([\d.]+)"', charts.plane(points, retention="IRA"))
    heights = [float(place) for place in places]
    assert heights[0] >= charts.LABEL
    assert all(after - before >= charts.LABEL for before, after in pairwise(heights))


def test_curves_rise_to_the_tenth_that_holds_them() -> None:
    line = charts.Line("m<1>", "tint0", (0.1, 0.05), (0.0, 0.0), (0.31, 0.2))
    drawing = charts.curves([line], (0.25, 0.9), name="threshold", mark=0.45)
    assert ">40</text>" in drawing
    assert ">50</text>" not in drawing
    assert ">0.45</text>" in drawing
    assert "m&lt;1&gt;" in drawing


def test_a_withheld_mark_is_hollow() -> None:
    drawing = charts.forest([mark("a", 0.5), mark("b", 0.5)._replace(is_struck=True)], low=0, high=1)
    assert drawing.count('class="tint0 hollow"') == drawing.count('class="tint0"') == 1


def test_layers_are_as_high_as_the_root_of_their_change() -> None:
    drawing = charts.layer_bars({"attn2.to_k": 0.25, "conv": 0.0, "new": None}, top=1.0)
    assert re.findall(r'<rect class="([^"]*)".*?height="([\d.]+)%"', drawing) == [
        ("cross-attention-keys", "50.0"),
        ("other-layers", "100.0"),
    ]
    assert 'aria-label="2 of 3 layers changed"' in drawing
