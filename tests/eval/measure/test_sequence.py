"""A sequence of three steps with a planted comeback."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.measure.sequence import check_order, measure_sequence
from eval.measure.view import Evidence
from eval.measurements import Estimate
from eval.results import ModelInfo
from eval.score.table import Scores, Table
from eval.suite.grid import GridRows, Target
from eval.suite.suite import Suite


STYLES, OBJECTS, SEEDS = ("Photo", "Sketch", "Mosaic", "Sepia"), ("Cats", "Dogs"), (1, 2)


def step(lost: set[str], *, comeback: str = "", latents: str = "same") -> Scores:
    """Draws Photo for the styles in ``lost``, except the Cats of ``comeback``; the objects are right."""
    rows = [
        {
            "key": f"{style}_{obj}_seed{seed}",
            "prompt_id": f"{style}_{obj}",
            "prompt": f"{obj} in {style} style",
            "family": "template",
            "style": style,
            "object": obj,
            "judge_style": "Photo" if style in lost and not (style == comeback and obj == "Cats") else style,
            "judge_object": obj,
            "latent_hash": f"{latents}{seed}",
        }
        for style in STYLES
        for obj in OBJECTS
        for seed in SEEDS
    ]
    return Scores(Table(rows))


def line_up(*steps: tuple[list[str], Scores]) -> Evidence:
    """The targets and the scores of each step."""
    suite = Suite(name="sequence", grid=GridRows(held_out=""), scorers={"judge": {}}, resamples=100)
    return Evidence(
        suite=suite,
        models=[ModelInfo(label=str(place), role="erased", group=place) for place in range(len(steps))],
        scores={str(place): scores for place, (_, scores) in enumerate(steps)},
        targets={place: Target("style", tuple(names)) for place, (names, _) in enumerate(steps)},
        provided={"judge_style": "", "judge_object": ""},
    )


@pytest.fixture
def steps() -> Evidence:
    return line_up(
        (["Mosaic"], step({"Mosaic"})),
        (["Mosaic", "Sepia"], step({"Mosaic", "Sepia"})),
        (["Sketch"], step({"Mosaic", "Sepia", "Sketch"}, comeback="Mosaic")),
    )


def numbers(rows: list[list[Estimate | None]]) -> list[list[float | None]]:
    return [[cell.value if cell else None for cell in row] for row in rows]


def test_ua_rebound_and_what_is_retained(steps: Evidence) -> None:
    sequence = measure_sequence(steps)
    assert sequence.labels == ("0", "1", "2")
    assert sequence.requests == ("Mosaic", "Sepia", "Sketch")
    assert numbers(sequence.ua) == [[1, None, None], [1, 1, None], [0.5, 1, 1]]
    assert numbers(sequence.rebound) == [[None, None, None], [0, None, None], [0.5, 0, None]]
    cells: list[Callable[[], Estimate | None]] = [
        lambda: sequence.ua[2][0],
        lambda: sequence.rebound[1][0],
        lambda: sequence.rebound[2][0],
    ]
    for cell in cells:
        own = cell()
        assert own
        assert (own.lo or 0) < (own.value or 0) < (own.hi or 0) or own.value == 0
    first = sequence.ua[2][0]
    assert first
    assert (first.hits, first.n_images) == (2, 4)
    assert [each.value for each in sequence.retained] == [1, 1, 1]
    assert [each.n_images for each in sequence.retained] == [12, 8, 4]


def test_what_is_hurt_beside_the_requests_is_seen() -> None:
    hurt = step({"Mosaic", "Sepia"})
    sequence = measure_sequence(line_up((["Mosaic"], hurt), (["Sketch"], hurt)))
    assert sequence.retained[0].value == pytest.approx((8 + 4 / 2) / 12)  # the objects of Sepia are still right


def test_without_a_judge_a_sequence_says_why(steps: Evidence) -> None:
    sequence = measure_sequence(replace(steps, provided={"judge_style": "weights absent"}))
    assert sequence.not_run == "weights absent"
    assert sequence.requests == ("Mosaic", "Sepia", "Sketch")


def test_a_sequence_must_be_one() -> None:
    first = (["Mosaic"], step({"Mosaic"}))
    with pytest.raises(ValueError, match="name two or more"):
        measure_sequence(line_up(first))
    with pytest.raises(ValueError, match="erases nothing that the steps before"):
        measure_sequence(line_up(first, first))
    with pytest.raises(ValueError, match="different latents"):
        measure_sequence(line_up(first, (["Sepia"], step({"Sepia"}, latents="other"))))
    with pytest.raises(ValueError, match="use a grid suite"):
        check_order([("one", None), ("two", None)])
